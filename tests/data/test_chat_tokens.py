"""Promises of a conversation's tokens: those of its text as a whole, learnt by their first
character."""

import json
import random

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, pre_tokenizers

from data.codecs.chat import ChatEncoder
from data.codecs.tokenizers import SpecialTokens, Tokenizer
from data.preparation import prepare
from tests.data.test_conversations import CHATML, read, settings, write
from tests.interop import foreign

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = ("gpt2", "llama3", "prepend", "metaspace first", "metaspace always", "stripping", "bert")
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt }}"
)
TEMPLATES = {"chatml": CHATML, "inst": INST, "plain": PLAIN}
START, END = "<|im_start|>", "<|im_end|>"


def backend(kind: str) -> tokenizers.Tokenizer:
    """A tokenizer of another library, of a kind of pre-tokenizer."""
    family = {"gpt2": "gpt2", "llama3": "llama3", "bert": "bert"}.get(kind, "llama")
    made = foreign.FAMILIES[family]()
    if kind == "llama3":
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    if kind.startswith("metaspace"):
        described = json.loads(made.to_str()) | {"normalizer": None}
        described["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": kind.split()[1],
            "split": False,
        }
        made = tokenizers.Tokenizer.from_str(json.dumps(described))
    made.add_special_tokens(
        [AddedToken(name, special=True, rstrip=kind == "stripping") for name in (START, END)]
    )
    return made


def load(kind: str, tmp_path) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    """A tokenizer as we load it, and the library's own."""
    made = backend(kind)
    made.save(str(tmp_path / "tokenizer.json"))
    special = SpecialTokens((made.token_to_id(END),), bos=START, eos=END)
    return Tokenizer.load(tmp_path / "tokenizer.json", special), made


def conversations(count: int) -> list[list[dict[str, str]]]:
    draw = random.Random(0)
    parts = ["3 times 4 is", " ", "\n", "It's", "naïve", "☃", "😀", "[INST]", ":\n", "15."]

    def text() -> str:
        return "".join(draw.choices(parts, k=draw.randrange(1, 9))) + "x"

    return [
        [
            {"role": role, "content": text()}
            for _ in range(draw.randrange(1, 4))
            for role in ("user", "assistant")
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_of_a_conversation_are_those_of_its_text(kind, template, tmp_path):
    ours, library = load(kind, tmp_path)
    encoder = ChatEncoder(ours, TEMPLATES[template])
    for messages in conversations(20):
        pieces = encoder.template.conversation(messages)
        text = "".join(piece.text for piece in pieces)
        (one,) = encoder.encode_many([messages])
        expected = library.encode(text, add_special_tokens=False).ids
        ends = [] if pieces[-1].is_special else [ours.separator_id]
        assert one.ids.tolist() == [*expected, *ends]
        opening = "".join(piece.text for piece in encoder.template.opening(messages[:1]))
        prompt = encoder.encode_opening(messages[:1])
        assert prompt.tolist() == library.encode(opening, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "prepend", "metaspace first"])
def test_a_token_is_learnt_if_its_first_character_is(kind, tmp_path):
    ours, _ = load(kind, tmp_path)
    encoder = ChatEncoder(ours, INST)
    question, answer = {"role": "user", "content": "5?"}, {"role": "assistant", "content": "15."}
    (one,) = encoder.encode_many([[question, answer, question, answer]])
    prompt = encoder.encode_opening([question])
    np.testing.assert_array_equal(one.ids[: len(prompt)], prompt)
    assert not one.learnt[: len(prompt)].any() and one.learnt[len(prompt)]
    assert not one.differs
    learnt = one.ids[one.learnt].tolist()
    assert learnt[len(learnt) // 2 :] == learnt[: len(learnt) // 2] and learnt[-1] == ours.end_id
    assert ours.decode(learnt[: len(learnt) // 2]).strip() == f"15.{END}"

    joined = ChatEncoder(ours, PLAIN)  # " 15" is a token that begins in the opening
    (one,) = joined.encode_many([[question, {"role": "assistant", "content": "It's"}]])
    prompt = joined.encode_opening([question])
    assert one.differs == (one.ids[: len(prompt)].tolist() != prompt.tolist())


def test_an_answer_that_joins_with_its_prompt_is_told(tmp_path):
    made = foreign.FAMILIES["gpt2"]()
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = {"kind": "file", "path": str(tmp_path / "tokenizer.json")}
    records = [{"prompt": "3?", "answer": "(9)"}, {"prompt": "3?", "answer": "times"}]
    path = write(tmp_path / "chat.jsonl", records)
    dataset = prepare(settings(path, tokenizer=tokenizer, chat_template=PLAIN))
    (warning,) = dataset.warnings
    assert warning.startswith("1 of 2 conversations of train have an answer whose first characters")
    assert warning.endswith("chat.jsonl:2")
    assert any(counts.startswith("(9)") for _, counts in read(dataset))


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_that_a_message_spells_is_plain_text(kind, tmp_path):
    ours, library = load(kind, tmp_path)
    encoder = ChatEncoder(ours, CHATML)
    messages = [
        {"role": "user", "content": f"a{END}b <s> <unk>"},
        {"role": "assistant", "content": f"{START}15"},
    ]
    (one,) = encoder.encode_many([messages])
    ids = one.ids.tolist()
    start, end = (library.token_to_id(name) for name in (START, END))
    assert (ids.count(start), ids.count(end)) == (2, 2)
    prompt = encoder.encode_opening(messages[:1])
    assert ids[: len(prompt)] == prompt.tolist() and not one.differs
    assert ids[-1] == end and one.learnt[-1] and not one.learnt[: len(prompt)].any()
    plain = encoder.encode_opening([{"role": "user", "content": "ab"}]).tolist()
    first = plain.index(end)
    assert ids[: first - 1] == plain[: first - 1]  # as it begins where no name is spelled
