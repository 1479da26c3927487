"""Promises of data.codecs.tokenizers: text survives, whatever it is, also token by token."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.codecs.tokenizers import SEPARATOR, UNKNOWN, StreamDecoder, Tokenizer

TEXT = "To be, or not to be:\n\n  naïve café 你好 😀🇩🇪\ttabs\r\nand\x00controls. " * 20

TOKENIZERS = {
    "characters": Tokenizer.characters([TEXT]),
    "bytes": Tokenizer.bytes(),
    "bpe": Tokenizer.train_bpe([TEXT], 300),
    "unigram": Tokenizer.train_unigram([TEXT], 300),
    "wordpiece": Tokenizer.train_wordpiece([TEXT], 560),
    "words": Tokenizer.train_words([TEXT], 100),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request) -> Tokenizer:
    return TOKENIZERS[request.param]


def test_text_comes_back(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int32
    assert ids.min() >= 0 and ids.max() < tokenizer.vocabulary_size
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.encode("").tolist() == []


@given(st.text(max_size=60))
def test_any_text_comes_back_from_bytes(text):
    for kind in ("bytes", "bpe", "unigram", "wordpiece"):
        tokenizer = TOKENIZERS[kind]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_sizes_and_ids_are_those_that_are_documented():
    characters, by_bytes, bpe, unigram, wordpiece, words = TOKENIZERS.values()
    assert characters.vocabulary_size == len(set(TEXT)) + 2
    found = sorted(set(TEXT))
    assert characters.encode("".join(found)).tolist() == list(range(2, 2 + len(found)))
    assert by_bytes.encode("aé").tolist() == list("aé".encode())
    assert (by_bytes.vocabulary_size, by_bytes.separator_id) == (257, 256)
    assert (bpe.vocabulary_size, bpe.separator_id) == (300, 0)
    assert 257 < unigram.vocabulary_size <= 300 and unigram.separator_id == 0
    assert (wordpiece.vocabulary_size, wordpiece.separator_id) == (560, 0)
    assert words.decode(words.encode("To be naïve, or nought")) == f"To be naïve, or{UNKNOWN}"
    assert (words.separator_id, words.vocabulary_size < 40) == (0, True)
    for learnt in (bpe, wordpiece, words):
        assert len(learnt.encode(TEXT)) < len(by_bytes.encode(TEXT)) / 2


def test_a_character_that_training_never_saw_is_unknown():
    characters = TOKENIZERS["characters"]
    ids = characters.encode("a☃b").tolist()
    assert characters.decode(ids) == f"a{UNKNOWN}b"


def test_text_can_not_spell_a_special_token(tokenizer):
    for special in (SEPARATOR, UNKNOWN):
        text = f"to{special}be"
        ids = tokenizer.encode(text)
        assert tokenizer.separator_id not in ids
        assert len(ids) >= 5
    assert tokenizer.decode([tokenizer.separator_id]) == SEPARATOR


def test_encoding_many_texts_is_encoding_each(tokenizer):
    texts = [TEXT[:n] for n in range(0, 200, 7)]
    for text, ids in zip(texts, tokenizer.encode_many(texts), strict=True):
        assert (ids == tokenizer.encode(text)).all()


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for copy in (
        Tokenizer.load(tmp_path / "tokenizer.json"),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert copy.vocabulary() == tokenizer.vocabulary()
        assert copy.separator_id == tokenizer.separator_id
        assert (copy.encode(f"{TEXT}{SEPARATOR}") == tokenizer.encode(f"{TEXT}{SEPARATOR}")).all()


@pytest.mark.parametrize("kind", ["bpe", "unigram", "wordpiece"])
def test_training_twice_gives_the_same_tokenizer(kind):
    train = getattr(Tokenizer, f"train_{kind}")
    words = [
        f"{number * number}th {number % 7} w{number % 13}rd{number}s." for number in range(900)
    ]
    text = " ".join(words)
    tokenizers = [train((TEXT, text), 700) for _ in range(3)]
    assert len({pickle.dumps(one) for one in tokenizers}) == 1
    assert len(tokenizers[0].encode(text)) < len(text) / 1.3


def test_words_of_any_length_come_back_from_wordpiece_in_little_time():
    tokenizer = TOKENIZERS["wordpiece"]
    for text in ("x" * 30_000, "\u203f", "##a ##", "你好" * 5000):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_foreign_tokenizer_gets_a_separator_and_is_never_cut_short(tmp_path):
    import tokenizers

    foreign = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "to": 1}, "[UNK]"))
    foreign.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    foreign.enable_truncation(max_length=3)
    foreign.enable_padding(length=8)
    foreign.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert tokenizer.encode("to be to be to").tolist() == [1, 0, 1, 0, 1]
    assert (tokenizer.separator_id, tokenizer.vocabulary_size) == (2, 3)


@pytest.mark.parametrize("content", [None, "", "{}", json.dumps({"model": 1})])
def test_a_file_that_is_no_tokenizer_is_named(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.load(path)


@given(st.data())
def test_a_stream_of_ids_is_decoded_as_the_whole_is(data):
    """Also where the ids are no text at all, as those of an untrained model are."""
    tokenizer = TOKENIZERS[data.draw(st.sampled_from(sorted(TOKENIZERS)))]
    anything = st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=60)
    text = st.text("a 😀é中\n\ufffd", max_size=40).map(lambda text: tokenizer.encode(text).tolist())
    ids = data.draw(anything | text)
    decoder = StreamDecoder(tokenizer)
    pushed = "".join(decoder.push(token) for token in ids)
    whole = tokenizer.decode(ids)
    assert whole.startswith(pushed)
    assert pushed + decoder.flush() == whole


def test_a_stream_never_holds_half_a_character():
    tokenizer = TOKENIZERS["bytes"]
    decoder = StreamDecoder(tokenizer)
    pushed = [decoder.push(byte) for byte in "a😀é".encode()]
    assert pushed == ["a", "", "", "", "😀", "", "é"]


def test_a_stream_costs_the_same_at_its_end_as_at_its_beginning():
    decoder = StreamDecoder(TOKENIZERS["bytes"])
    for token in [0x80] * 500 + list(TEXT.encode()):
        decoder.push(token)
        assert len(decoder._ids) < 32
