"""Texts with gaps: the ids around them are those of the whole text, and it comes back."""

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from data.codecs.gaps import GapCodec, joined_ids
from data.codecs.tokenizers import Tokenizer
from tests.interop import foreign

WORDS = "once upon a time a world of words told the wordy king how the old world began"
LINES = [f"{WORDS}, {n} times.\n" for n in range(40)] + [f"Then {WORDS.upper()}!\n"] * 5
MASK = -1


def metaspace() -> Tokenizer:
    """Pieces of a unigram model, as T5 and XLM-R have them."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    special = ["<pad>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator([line.strip() for line in LINES], trainer)
    return Tokenizer(backend)


def roberta() -> Tokenizer:
    """Byte pairs whose post-processor cuts the spaces off from the offsets."""
    backend = foreign.gpt2()
    backend.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return Tokenizer(backend)


def bert() -> Tokenizer:
    """WordPiece of small letters."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=110, special_tokens=["[UNK]"], show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    return Tokenizer(backend)


def whitespace_words() -> Tokenizer:
    """Whole words of nothing but white space between them."""
    backend = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    backend.train_from_iterator(LINES, trainer)
    return Tokenizer(backend)


KINDS = {
    "characters": lambda: Tokenizer.characters(LINES),
    "bytes": Tokenizer.bytes,
    "bpe": lambda: Tokenizer.train_bpe(LINES, 400),
    "small bpe": lambda: Tokenizer.train_bpe(LINES, 270),
    "unigram": lambda: Tokenizer.train_unigram(LINES, 330),
    "wordpiece": lambda: Tokenizer.train_wordpiece(LINES, 600),
    "words": lambda: Tokenizer.train_words(LINES, 100),
    "metaspace": metaspace,
    "roberta": roberta,
    "llama": lambda: Tokenizer(foreign.llama()),
    "bert": bert,
    "whitespace words": whitespace_words,
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(kind) -> Tokenizer:
    return KINDS[kind]()


@pytest.fixture(scope="module")
def codec(tokenizer) -> GapCodec:
    return GapCodec(tokenizer)


def tokens_in(tokenizer: Tokenizer, text: str) -> list[tuple[str, str, str]]:
    """Of each token what stands before it, itself and what is behind it. The space before a word
    stands before it, whether or not it is a part of the token."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    found = []
    for start, stop in backend.encode(text, add_special_tokens=False).offsets:
        start += text[start] == " " and stop > start + 1
        found.append((text[:start], text[start:stop], text[stop:]))
    return found


def carries_spaces(tokenizer: Tokenizer) -> bool:
    """Whether there are tokens of a space and a word."""
    return any(text[:1] in "\u0120\u2581" and len(text) > 1 for text in tokenizer.vocabulary())


TEXTS = ("once upon a time the old world told the wordy king", "a world, 12 times!")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_with_a_gap_has_the_ids_of_training_but_for_the_one_that_is_missing(
    tokenizer, codec, text
):
    ids, seen = tokenizer.encode(text).tolist(), 0
    for place, (before, token, after) in enumerate(tokens_in(tokenizer, text)):
        pieces = codec.encode([before, after])
        # Where words carry their spaces, nobody can say that before this one it is a token.
        is_odd = tokenizer.decode(ids[:place]).endswith(" ") and carries_spaces(tokenizer)
        if token and before.strip() and not is_odd:
            assert joined_ids(pieces, [MASK]) == [*ids[:place], MASK, *ids[place + 1 :]], before
            seen += 1
        if before.strip() and tokenizer.backend.id_to_token(ids[place]) != "[UNK]":
            assert codec.fill(pieces, [ids[place]]) == text
    assert seen >= 3


AROUND = {
    "characters": {
        ("wor", "d"): ["w", "o", "r", "_", "d"],
        ("to ", " ", " a"): ["t", "o", " ", "_", " ", "_", " ", "a"],
        ("", " a"): ["_", " ", "a"],
        ("to ", ""): ["t", "o", " ", "_"],
        ("to", "", "a"): ["t", "o", "_", "_", "a"],
    },
    "bpe": {
        ("wor", "d"): ["wor", "_", "d"],
        ("once ", " ", " time"): ["once", "_", "_", "Ġtime"],
        ("", " time"): ["_", "Ġtime"],
        ("once ", ""): ["once", "_"],
        ("once", "", " time"): ["once", "_", "_", "Ġtime"],
        ("once \n", "once"): ["once", "Ġ", "Ċ", "_", "once"],
        ("once\n ", " time"): ["once", "Ċ", "_", "Ġtime"],
    },
    "wordpiece": {("wor", "d"): ["w", "‿or", "_", "‿d"], ("once ", " "): ["once", "_", "Ġ"]},
    "metaspace": {
        ("wor", "d"): ["▁wor", "_", "d"],
        ("on ", " ", " time"): ["▁", "on", "_", "_", "▁time"],
        ("", " time"): ["_", "▁time"],
    },
    "bert": {
        ("wor", "d"): ["wor", "_", "##d"],
        ("once ", " ", " time"): ["once", "_", "_", "time"],
        ("wo", "l", "s told"): ["wo", "_", "##l", "_", "##s", "told"],
        ("Once", ", told"): ["once", "_", ",", "told"],
    },
}


def test_gaps_stand_between_the_tokens_that_training_has_there(kind, tokenizer, codec):
    for texts, expected in AROUND.get(kind, {}).items():
        ids = joined_ids(codec.encode(texts), [MASK] * (len(texts) - 1))
        assert ["_" if one == MASK else tokenizer.backend.id_to_token(one) for one in ids] == (
            expected
        )


@pytest.mark.parametrize(
    ("name", "texts", "tokens", "whole"),
    [
        ("characters", ("to ", "ld"), "o", "to old"),
        ("characters", ("to ", "a"), " ", "to  a"),
        ("bytes", ("na", "", "ve "), ("Ã", "¯"), "naïve "),
        ("bpe", ("Once ", " , ", "!"), ("Ġtime", "Ġtime"), "Once time , time!"),
        ("bpe", ("Once ", "!"), ("once",), "Once once!"),
        ("bpe", ("Once\t", "!"), ("Ġtime",), "Once\t time!"),
        ("metaspace", ("", " TIME"), ("▁time",), "time TIME"),
        ("metaspace", (" ", " TIME"), ("▁time",), " time TIME"),
        ("bert", ("ONCE ", " a ", "d"), ("upon", "##l"), "ONCE upon a ld"),
        ("bert", ("WOR", "D"), ("##l",), "WORlD"),
        ("bert", ("Upon", " a"), (",",), "Upon, a"),
        ("whitespace words", ("Once  ", " a"), ("upon",), "Once  upon a"),
    ],
)
def test_tokens_are_put_into_the_text_that_was_given(name, texts, tokens, whole):
    tokenizer = KINDS[name]()
    codec, ids = GapCodec(tokenizer), [tokenizer.vocabulary()[token] for token in tokens]
    assert codec.fill(codec.encode(texts), ids) == whole
