"""Constrained texts: what the masks allow is valid wherever it may end, and what can't be enforced
is refused by name."""

import json
import random
import re

import jsonschema
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from data.codecs.chat import ChatTokenizer
from data.codecs.tokenizers import Tokenizer
from inference.engine.constraints import Constraint, ConstraintCompiler, ConstraintState
from inference.engine.token_bytes import TokenBytes
from inference.engine.trial_compilation import TOO_LARGE, TOO_SLOW
from inference.predictors.completion import TextCompletion
from inference.requests import RequestError

TEXT = '{"name": "Ada", "ages": [1, 22.5, null], "is": true}\ndef f(x): return x + 1\n' * 20

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [7, 70]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


def sentencepiece() -> Tokenizer:
    """A vocabulary as of Llama 2: "▁" for spaces, byte tokens, and a space before every text."""
    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*'▁abcdefghijklmnopqrstuvwxyz{}[]:,0123456789"', "▁{", "ab", "▁ab", '":']
    merges = [("▁", "{"), ("a", "b"), ("▁", "ab"), ('"', ":")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<s>", "</s>", "<unk>"])
    return Tokenizer(backend)


VOCABULARIES = {
    "bytes": Tokenizer.bytes,
    "characters": lambda: Tokenizer.characters([TEXT, "0123456789abcdefghijklmnopqrstuvwxyz-"]),
    "bpe": lambda: Tokenizer.train_bpe([TEXT], 400),
    "unigram": lambda: Tokenizer.train_unigram([TEXT], 400),
    "wordpiece": lambda: Tokenizer.train_wordpiece([TEXT], 600),
    "sentencepiece": sentencepiece,
}


@pytest.fixture(scope="module", params=VOCABULARIES)
def tokenizer(request):
    return VOCABULARIES[request.param]()


@pytest.fixture(scope="module")
def bpe():
    return VOCABULARIES["bpe"]()


def allowed(state: ConstraintState, vocabulary_size: int) -> list[int]:
    """The tokens that the mask allows."""
    mask = np.empty(-(-vocabulary_size // 32), np.uint32)
    state.mask(mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert not bits[vocabulary_size:].any()
    return np.flatnonzero(bits).tolist()


def walk(tokenizer: Tokenizer, state: ConstraintState, seed: int, most: int = 400):
    """Draw from what the masks allow; return the text and whether it ended."""
    draw, ids = random.Random(seed), []
    for _ in range(most):
        choices = allowed(state, tokenizer.vocabulary_size)
        if forced := state.forced():
            assert choices == forced[:1]
        token = draw.choice(choices)
        state.push(token)
        if token == tokenizer.end_id:
            assert state.is_complete and state.forced() == []
            return tokenizer.decode(ids), True
        ids.append(token)
    return tokenizer.decode(ids), False


def scalars():
    texts = st.text('ab"\\\n é日', max_size=4)
    return st.one_of(
        st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 10**4)).map(
            lambda pair: {"type": "integer", "minimum": pair[0], "maximum": sum(pair)}
        ),
        st.tuples(st.integers(0, 3), st.integers(0, 5)).map(
            lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
        ),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": [1, {"a": None}]}]),
        st.lists(st.one_of(texts, st.integers(-9, 9), st.none()), min_size=1, max_size=4).map(
            lambda values: {"enum": values}
        ),
    )


def extended(schemas):
    names = st.text('ab" é', max_size=3)
    return st.one_of(
        st.tuples(schemas, st.integers(0, 2), st.integers(0, 1)).map(
            lambda drawn: {
                "type": "array",
                "items": drawn[0],
                "minItems": drawn[1],
                "maxItems": drawn[1] + drawn[2],
            }
        ),
        st.tuples(st.dictionaries(names, schemas, max_size=3), st.randoms()).map(
            lambda drawn: {
                "type": "object",
                "properties": drawn[0],
                "required": [name for name in drawn[0] if drawn[1].random() < 0.6],
                "additionalProperties": False,
            }
        ),
        st.lists(schemas, min_size=1, max_size=3).map(lambda options: {"anyOf": options}),
    )


SCHEMAS = extended(extended(extended(scalars()) | scalars()) | scalars())


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_texts_of_random_schemas_end_and_are_valid(kind):
    tokenizer, ended = VOCABULARIES[kind](), []
    compiler = ConstraintCompiler(tokenizer)

    @settings(max_examples=200 if kind == "bpe" else 50, deadline=None, derandomize=True)
    @given(SCHEMAS, st.integers(0, 1000))
    def draw(schema, seed):
        text, is_over = walk(
            tokenizer, compiler.start(Constraint("json_schema", json.dumps(schema))), seed
        )
        if is_over:
            jsonschema.validate(json.loads(text), schema)
        ended.append(is_over)

    draw()
    assert np.mean(ended) >= 0.95


@pytest.mark.parametrize(
    ("kind", "value", "is_valid"),
    [
        ("json_schema", PERSON, lambda text: json.loads(text)["age"] in (7, 70)),
        ("regex", r"[a-c]{2,4}-\d{3,5}", re.compile(r"[a-c]{2,4}-[0-9]{3,5}").fullmatch),
        ("choices", ("a", "ab", "a-1"), ("a", "ab", "a-1").__contains__),
        ("grammar", 'start: "a" | "[" start "]"', re.compile(r"\[*a\]*").fullmatch),
    ],
)
def test_texts_of_every_kind_of_vocabulary_are_valid(tokenizer, kind, value, is_valid):
    compiler, constraint = ConstraintCompiler(tokenizer), Constraint(kind, value)
    texts = [walk(tokenizer, compiler.start(constraint), seed) for seed in range(20)]
    assert all(is_over and is_valid(text) for text, is_over in texts)
    assert len(set(texts)) > 1


def test_the_bytes_of_tokens_are_what_they_decode_to(tokenizer):
    pieces = TokenBytes(tokenizer).pieces
    assert len(pieces) == tokenizer.vocabulary_size
    text = TEXT[:130]
    ids = tokenizer.encode(text).tolist()
    assert b"".join(pieces[number] for number in ids).decode().removeprefix(" ") == text
    special = {*tokenizer.special_tokens().values(), tokenizer.unknown_id}
    for number in set(range(len(pieces))) - special:
        decoded = tokenizer.decode([*ids[:1], number])[len(tokenizer.decode(ids[:1])) :]
        if "\ufffd" not in decoded:
            assert pieces[number].decode() == decoded
    assert not any(pieces[number] for number in special if number is not None)


def test_every_choice_can_be_written_and_nothing_else(bpe):
    choices = ("yes", "yes, sir", 'a "quoted"\nline\\', "é😀", "<|endoftext|>", "/a/")
    compiler, constraint = ConstraintCompiler(bpe), Constraint("choices", choices)
    found = {walk(bpe, compiler.start(constraint), seed) for seed in range(100)}
    assert found == {(choice, True) for choice in choices}
    state = compiler.start(constraint)
    for token in bpe.encode(choices[1]).tolist():
        assert token in allowed(state, bpe.vocabulary_size)
        state.push(token)
    assert state.is_complete and state.forced() == [bpe.end_id]


def test_forced_tokens_are_the_text_up_to_the_next_choice(bpe):
    compiler = ConstraintCompiler(bpe)
    state = compiler.start(Constraint("json_schema", PERSON))
    written = []
    while forced := state.forced():
        written += forced
        for token in forced:
            assert allowed(state, bpe.vocabulary_size) == [token]
            state.push(token)
    assert '{"name":'.startswith(bpe.decode(written)) and len(bpe.decode(written)) > 5


def test_json_has_one_space_at_most_after_commas_and_colons(bpe):
    compiler = ConstraintCompiler(bpe)

    def is_allowed(text: str) -> bool:
        state = compiler.start(Constraint("json_schema", PERSON))
        try:
            for byte in text.encode():
                state.push(bpe.encode(chr(byte))[0])
        except RequestError:
            return False
        return bpe.end_id in allowed(state, bpe.vocabulary_size)

    assert is_allowed('{"name":"a","age":7}') and is_allowed('{"name": "a", "age": 7}')
    assert not is_allowed('{"name":  "a","age":7}') and not is_allowed('{ "name":"a","age":7}')
    assert not is_allowed('{"name":"a" ,"age":7}') and not is_allowed('{"name":"a"\n,"age":7}')


def test_texts_of_one_constraint_do_not_share_their_position(bpe):
    compiler, constraint = ConstraintCompiler(bpe), Constraint("json_schema", PERSON)
    first = compiler.start(constraint)
    beginning = allowed(first, bpe.vocabulary_size)
    first.push(beginning[0])
    second = compiler.start(constraint)
    assert allowed(second, bpe.vocabulary_size) == beginning
    assert allowed(first, bpe.vocabulary_size) != beginning
    alone = [walk(bpe, ConstraintCompiler(bpe).start(constraint), seed) for seed in range(5)]
    assert [walk(bpe, compiler.start(constraint), seed) for seed in range(5)] == alone


def test_a_constraint_does_not_wear_out(bpe):
    # Each text adds states to the lexer that the texts of a grammar share, which has a limit.
    compiler = ConstraintCompiler(bpe)
    constraint = Constraint("regex", "(?s:.)*[ab](?s:.{30})x")
    for seed in range(25):
        state, draw = compiler.start(constraint), random.Random(seed)
        for _ in range(100):
            mask = allowed(state, bpe.vocabulary_size)
            state.push(draw.choice([t for t in bpe.encode("abcdx").tolist() if t in mask]))


def test_the_latest_grammars_are_kept(bpe):
    compiler = ConstraintCompiler(bpe, most_grammars=2)
    for text in ("a", "b", "a", "c", "a"):
        compiler.start(Constraint("choices", (text,)))
    assert [one.value for one in compiler._grammars] == [("c",), ("a",)]


def test_a_chat_model_ends_with_the_end_of_its_turn():
    backend = Tokenizer.train_bpe([TEXT], 400).backend
    backend.add_special_tokens(["<|end|>"])
    template = "{% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    tokenizer = ChatTokenizer(Tokenizer(backend), template)
    assert tokenizer.end_id == backend.token_to_id("<|end|>")
    compiler = ConstraintCompiler(tokenizer)
    text, is_over = walk(tokenizer, compiler.start(Constraint("choices", ("yes", "no"))), 0)
    assert is_over and text in ("yes", "no")


def test_a_regular_expression_is_confined_to_the_characters_of_the_vocabulary():
    tokenizer = Tokenizer.characters(["abc-^]"])
    compiler = ConstraintCompiler(tokenizer)
    state = compiler.start(Constraint("regex", r"([a-z]-|[\]^x]x|[x-z]+)+"))
    text, is_over = walk(tokenizer, state, 1)
    assert is_over and re.fullmatch("([abc]-)+", text)
    with pytest.raises(RequestError, match=r"^regex can't be followed: no token"):
        compiler.start(Constraint("regex", "[x-z]+"))


def test_the_unknown_token_is_never_allowed_even_where_a_grammar_names_it():
    tokenizer = Tokenizer.characters(["ab"])
    grammar = f'start: "a" (<[{tokenizer.unknown_id}]> | "b" <[{tokenizer.unknown_id}]>)'
    state = ConstraintCompiler(tokenizer).start(Constraint("grammar", grammar))
    for text in "ab":
        (token,) = tokenizer.encode(text).tolist()
        assert allowed(state, tokenizer.vocabulary_size) == [token]
        state.push(token)
    with pytest.raises(RequestError, match=r"^grammar can't be followed: no token"):
        allowed(state, tokenizer.vocabulary_size)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        ("json_schema", "{", "is not a JSON schema: "),
        ("json_schema", "[1]", "is not a JSON schema: it must be an object"),
        ("json_schema", '{"maximum": 1e999}', "is not a JSON schema: number out of range"),
        ("json_schema", "[" * 10_000, "is nested too deeply"),
        ("json_schema", '{"items": ' * 200 + "{}" + "}" * 200, "is nested too deeply"),
        ("json_schema", '{"$ref": "https://a.b/c"}', "has a $ref to https://a.b/c: only "),
        ("json_schema", '{"anyOf": [{"$ref": "d.json#/x"}]}', "has a $ref to d.json#/x: only "),
        ("json_schema", '{"$ref": "#/x"}', "can't be enforced: Pointer '/x' does not exist"),
        ("json_schema", '{"uniqueItems": true}', "can't be enforced: unsupported keywords: \"uniq"),
        (
            "json_schema",
            '{"items": {"not": {}}}',
            'can\'t be enforced: unsupported keywords: "not"',
        ),
        ("json_schema", '{"format": "x-y"}', "can't be enforced: Unknown format: x-y"),
        ("json_schema", '{"pattern": "(?=a)"}', "can't be enforced: look-around"),
        ("json_schema", '{"oneOf": [{}, {}]}', "can't be enforced: the options of a oneOf"),
        ("json_schema", '{"enum": []}', "can't be enforced: Unsatisfiable schema"),
        ("json_schema", '{"x-guidance": {"lenient": true}}', "has the keyword x-guidance"),
        ("json_schema", '{"items": {"minProperties": 3}}', "has minProperties 3 and 0 required"),
        (
            "json_schema",
            f'{{"title": "{"a" * 70_000}"}}',
            "has 70013 characters, and at most 65536",
        ),
        ("json_schema", {"type": "null"}, "must be a text, not {'type': 'null'}"),
        ("regex", "(", "can't be enforced: unclosed group"),
        ("regex", r"(a)\1", "can't be enforced: backreferences are not supported"),
        ("regex", "a(?!b)", "can't be enforced: look-around"),
        ("regex", r"\bword", "can't be enforced: lookarounds not supported"),
        ("regex", "a" * 5000, "has 5000 characters, and at most 4096 are taken"),
        ("regex", "a\ud800", "is not valid Unicode"),
        ("choices", (), "must be one or more texts, none of them empty"),
        ("choices", ("a", ""), "must be one or more texts, none of them empty"),
        ("choices", "ab", "must be a list of texts, not 'ab'"),
        ("choices", ("a", 1), "must be a list of texts, not ('a', 1)"),
        ("grammar", 'begin: "a"', "can't be enforced: no start rule found"),
        ("grammar", "start: missing", 'can\'t be enforced: at 1(8): unknown name: "missing"'),
        ("grammar", 'start: "a" <|endoftext|>', "can't be enforced: at 1("),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_the_name_of_its_field(kind, value, problem):
    with pytest.raises(RequestError) as error:
        Constraint(kind, value)
    assert error.value.field == kind
    assert str(error.value).startswith(f"{kind} {problem}")
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_schema_that_ends_or_stalls_the_compiler_is_refused_and_harms_nothing_else():
    letters = "abcdefghijklmnopqrst"
    chain = {str(number): {"$ref": f"#/$defs/{number + 1}"} for number in range(1500)}
    deep = {"$defs": {**chain, "1500": {"type": "null"}}, "$ref": "#/$defs/0"}
    with pytest.raises(RequestError, match=f"^json_schema can't be enforced: {TOO_LARGE}"):
        Constraint("json_schema", json.dumps(deep))
    endless = {"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in letters]}
    with pytest.raises(RequestError, match=f"^json_schema can't be enforced: {TOO_SLOW}"):
        Constraint("json_schema", json.dumps(endless))
    Constraint("json_schema", PERSON)


def test_a_text_whose_grammar_gets_too_complex_ends_with_an_error(bpe):
    grammar = 'start: b{1000}\nb: c{1000}\nc: d{1000}\nd: "x"?'
    state = ConstraintCompiler(bpe).start(Constraint("grammar", grammar))
    (x,) = bpe.encode("x").tolist()
    with pytest.raises(RequestError, match=r"^grammar can't be followed: .* max is 2000"):
        for _ in range(200):
            assert x in allowed(state, bpe.vocabulary_size)
            state.push(x)


def wordpiece_of_bert() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return Tokenizer(backend)


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: Tokenizer.train_words([TEXT], 50), "a vocabulary of whole words can't spell"),
        (wordpiece_of_bert, "a vocabulary with a decoder WordPiece writes"),
        (
            lambda: Tokenizer(tokenizers.Tokenizer(models.BPE({"a": 0}, []))),
            "a vocabulary without a decoder",
        ),
    ],
)
def test_vocabularies_that_do_not_write_what_their_tokens_say_are_refused(build, problem):
    compiler = ConstraintCompiler(build())
    with pytest.raises(RequestError) as error:
        compiler.start(Constraint("choices", ("a",)))
    assert str(error.value).startswith(f"choices is not possible with this model: {problem}")


@pytest.mark.parametrize(
    ("kind", "value"), [("choices", ("yes", "no")), ("json_schema", '{"type": "null"}')]
)
def test_characters_that_the_vocabulary_lacks_are_named(kind, value):
    compiler = ConstraintCompiler(Tokenizer.characters(["yes{}"]))
    with pytest.raises(RequestError, match=f"^{kind} needs characters .* has not: .*n"):
        compiler.start(Constraint(kind, value))


def test_a_request_has_one_constraint_at_most():
    (request,) = TextCompletion.parse({"prompt": ["a"], "choices": ["yes", "no"]})
    assert request.constraint == Constraint("choices", ("yes", "no"))
    (request,) = TextCompletion.parse({"prompt": ["a"]})
    assert request.constraint is None
    with pytest.raises(RequestError, match=r"^regex is given beside json_schema: give one of them"):
        TextCompletion.parse({"prompt": ["a"], "regex": "a", "json_schema": "{}"})
