"""A text that grows token by token, and where it ends."""

import pytest

from data.codecs.tokenizers import Tokenizer
from inference.text import GrowingText

CHARACTERS = Tokenizer.characters(["abcdefghij \n"])
BYTES = Tokenizer.bytes()


def grow(text, *, tokenizer=CHARACTERS, max_tokens=100, stop=(), end=False):
    growing = GrowingText(tokenizer, max_tokens=max_tokens, stop=stop)
    ids = [*tokenizer.encode(text).tolist(), *[tokenizer.separator_id] * end]
    pieces = []
    for token in ids:
        pieces.append(growing.push(token))
        if growing.finish is not None:
            break
    return growing, pieces


def test_the_separator_ends_a_text_and_is_no_part_of_it():
    growing, pieces = grow("abc", end=True)
    assert (growing.text, growing.tokens, growing.finish) == ("abc", 3, "separator")
    assert pieces == ["a", "b", "c", ""]


def test_max_tokens_end_a_text():
    growing, _ = grow("abcdef", max_tokens=4)
    assert (growing.text, growing.tokens, growing.finish) == ("abcd", 4, "length")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        (("d",), "abc"),
        (("cde",), "ab"),
        (("ef", "bcd"), "a"),
        (("abc",), ""),
        (("zz",), "abcdef"),
        (("cdx", "de"), "abc"),
    ],
)
def test_a_text_ends_before_the_first_stop_string(stop, text):
    growing, pieces = grow("abcdef", stop=stop)
    assert (growing.text, growing.tokens) == (text, len(text))
    assert growing.finish == ("stop" if text != "abcdef" else None)
    # Nothing of a stop string was shown before it was known to be one.
    shown = "".join(pieces)
    assert shown == text


def test_what_may_become_a_stop_string_is_held_back_until_it_is_none():
    _, pieces = grow("aabaac", stop=("aac",))
    assert pieces == ["", "", "aab", "", "", ""]
    _, pieces = grow("aab", stop=("aac",), end=True)
    assert pieces == ["", "", "aab", ""]
    growing, pieces = grow("aa", stop=("aac",), end=True)
    assert (pieces, growing.text) == (["", "", "aa"], "aa")


def test_a_stop_string_may_begin_before_the_last_one_failed():
    growing, _ = grow("abababc", stop=("ababc",))
    assert growing.text == "ab"


def test_no_half_characters():
    growing, pieces = grow("aé€😀b", tokenizer=BYTES)
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "😀", "b"]
    assert (growing.text, growing.tokens) == ("aé€😀b", 11)


def test_a_text_cut_within_a_character_says_so():
    growing, pieces = grow("a€", tokenizer=BYTES, max_tokens=2)
    assert growing.text == "".join(pieces) == "a\ufffd"


def test_a_stop_string_within_a_token_counts_the_token_it_cuts():
    bpe = Tokenizer.train_bpe(["hello there " * 50], 300)
    ids = bpe.encode("hello there").tolist()
    assert len(ids) == 2
    growing, _ = grow("hello there", tokenizer=bpe, stop=("ere",))
    assert (growing.text, growing.tokens) == ("hello th", 2)
    growing, _ = grow("hello there", tokenizer=bpe, stop=(" there",))
    assert (growing.text, growing.tokens) == ("hello", 1)
