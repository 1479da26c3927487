"""The tokenizer.json of a folder: ids, what stands around a text, what opens a document."""

import numpy as np
import pytest
import tokenizers

from data.codecs.chat import ChatEncoder, for_prompts
from data.codecs.tokenizers import StreamDecoder, Tokenizer
from tests.interop import foreign
from tests.interop.foreign import TEXT, write_tokenizer

TEXTS = ("5 times 3 is 15.", "It's naïve", "a ☃ 😀", " two  spaces ", "\n", TEXT)

AROUND = {
    "gpt2": ([], [], "<|endoftext|>"),
    "llama": (["<s>"], [], "<|endoftext|>"),
    "llama3": (["<|begin_of_text|>"], [], "<|endoftext|>"),
    "bert": (["[CLS]"], ["[SEP]"], "[CLS]"),
}


@pytest.fixture(params=AROUND)
def family(request) -> str:
    return request.param


@pytest.fixture
def tokenizer(family, tmp_path) -> Tokenizer:
    write_tokenizer(tmp_path, family)
    return Tokenizer.load(tmp_path / "tokenizer.json")


def test_framed_ids_are_those_that_the_file_gives(tokenizer, family, tmp_path):
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode_many(TEXTS)
    for text, own in zip(TEXTS, ids, strict=True):
        assert tokenizer.framed(own).tolist() == theirs.encode(text).ids
        assert own.tolist() == theirs.encode(text, add_special_tokens=False).ids


def test_what_is_too_long_is_cut_as_the_library_cuts_it(tokenizer, tmp_path):
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.enable_truncation(7)
    assert tokenizer.framed(tokenizer.encode(TEXT), 7).tolist() == theirs.encode(TEXT).ids


def test_what_opens_and_closes_is_known(tokenizer, family):
    opening, closing, separator = AROUND[family]
    ids = tokenizer.vocabulary()
    assert tokenizer.opening.tolist() == [ids[token] for token in opening]
    assert tokenizer.closing.tolist() == [ids[token] for token in closing]
    assert tokenizer.separator == separator
    assert tokenizer.document_opening.tolist() == [
        ids[token] for token in dict.fromkeys([separator, *opening])
    ]
    assert tokenizer.end_id == ids[(closing or [separator])[0]]
    grown = separator not in foreign.FAMILIES[family]().get_vocab()
    theirs = foreign.FAMILIES[family]().get_vocab_size()
    assert tokenizer.vocabulary_size == theirs + grown


def test_it_is_saved_with_what_stands_around_texts(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "saved.json")
    saved = Tokenizer.load(tmp_path / "saved.json")
    assert saved.framed(saved.encode(TEXT)).tolist() == (
        tokenizer.framed(tokenizer.encode(TEXT)).tolist()
    )
    assert saved.vocabulary() == tokenizer.vocabulary()


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama3"])
def test_a_text_that_goes_on_with_another_keeps_its_space(tokenizer):
    text = "5 times 3 is 15, or isn't it? ☃你好😀 " + 20 * "你"
    ids = tokenizer.encode(text).tolist()
    for stop in range(1, len(ids)):
        start = tokenizer.decode(ids[:stop])
        decoder = StreamDecoder(tokenizer, after=ids[:stop])
        rest = "".join(decoder.push(one) for one in ids[stop:]) + decoder.flush()
        if not start.endswith("\ufffd"):
            assert start + rest == text


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']\n' + m.content }}"
    "{{ eos_token if m.role == 'assistant' }}{% endfor %}"
    "{{ '[assistant]\n' if add_generation_prompt }}"
)


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_conversation_is_opened_as_a_document_once(tokenizer, family, template):
    asked = {"role": "user", "content": "5 times 3?"}
    answer = {"role": "assistant", "content": "15"}
    encoder = ChatEncoder(tokenizer, template)
    (whole,) = encoder.encode_many([[asked, answer]])
    opening = tokenizer.document_opening
    assert whole.ids[: len(opening)].tolist() == opening.tolist()
    assert np.isin(whole.ids[len(opening) : -1], opening).sum() == 0
    assert whole.ids[-1] == encoder.end_id == tokenizer.separator_id and whole.learnt[-1]

    settings = type("Settings", (), {"source": "conversations", "chat_template": template})
    asking = for_prompts(tokenizer, settings)
    ids = asking.encode(asked["content"])
    assert ids.tolist() == whole.ids[: len(ids)].tolist()
    assert not len(asking.opening)
