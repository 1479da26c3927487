"""A folder's tokenizer.json gives the ids that the fast tokenizers of `transformers` give."""

import pytest
import transformers

from data.codecs import Tokenizer
from tests.interop.foreign import FAMILIES, TEXT, write_tokenizer

TEXTS = ["5 times 3 is 15.", "It's naïve", "a ☃ 😀 你好", " two  spaces ", "Word" * 40, TEXT]
LENGTH = 12


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_texts_are_the_same_whole_and_cut(family, tmp_path):
    write_tokenizer(tmp_path, family)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast
    ours = Tokenizer.load(tmp_path / "tokenizer.json")
    for text, ids in zip(TEXTS, ours.encode_many(TEXTS), strict=True):
        assert ours.framed(ids).tolist() == theirs(text)["input_ids"]
        assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
        cut = theirs(text, truncation=True, max_length=LENGTH)["input_ids"]
        assert ours.framed(ids, LENGTH).tolist() == cut


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_that_their_library_saves_is_read_as_it_is(family, tmp_path):
    write_tokenizer(tmp_path / "first", family)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "first")
    theirs.save_pretrained(tmp_path / "again")
    first, again = (
        Tokenizer.load(tmp_path / name / "tokenizer.json") for name in ("first", "again")
    )
    assert first.vocabulary() == again.vocabulary()
    for text in TEXTS:
        assert again.framed(again.encode(text)).tolist() == theirs(text)["input_ids"]
