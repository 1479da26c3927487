"""Encodes documents that sources read in pieces, so that they have the token ids of the whole."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.codecs.tokenizers import Tokenizer

VERSION = 2
"""Part of the cache key if the tokenizer is a file. Increment it when documents are encoded in
other parts."""

DOCUMENT_BYTES = 2**23
"""A document of up to this size is encoded as a whole, a longer one in parts."""

_WORDS = re.compile(r".*\S(?=\s)", re.DOTALL)  # up to the last white space after a word


@dataclass(frozen=True)
class DocumentPart:
    """A part of a document that is encoded by itself; of most tokenizers, the whole document.

    index: its index in the document, from 0.
    is_cut: whether it begins where the ids may differ from those of the whole.
    example: the document's first raw example.
    """

    index: int
    text: str
    is_cut: bool
    example: Mapping[str, Any]


def documents_key(settings: Any) -> dict[str, Any]:
    """Return the part of the cache key that is for data in documents.

    settings: `config.data.tokenizer`.
    """
    if settings.kind != "file":
        return {}
    return {"documents": {"version": VERSION, "largest": DOCUMENT_BYTES}}


def encode_documents(
    examples: Iterable[Mapping[str, Any]], tokenizer: Tokenizer
) -> Iterator[tuple[DocumentPart, NDArray[np.int32]]]:
    """Yield documents in parts, each with its ids.

    examples: raw examples, with a `piece` and its `text`.

    Pieces are joined, except where it makes no difference to the ids. A document of more than
    `DOCUMENT_BYTES` is cut: at a word if this makes no difference, otherwise after a line, before
    the white space of a longer line, or anywhere in a longer word.
    """
    parts, again = tee(_parts(examples, tokenizer))
    ids = tokenizer.encode_each(part.text for part in again)
    return zip(parts, ids, strict=True)


def _parts(examples: Iterable[Mapping[str, Any]], tokenizer: Tokenizer) -> Iterator[DocumentPart]:
    """Yield the parts that are encoded by themselves."""
    texts, size, index, is_cut = list[str](), 0, 0, False
    first: Mapping[str, Any] = {}
    for one in examples:
        text, is_new = one["text"], one["piece"] == 0
        if texts and (is_new or tokenizer.divides(texts[-1], text)):
            yield DocumentPart(index, "".join(texts), is_cut, first)
            texts, size, index, is_cut = [], 0, index + 1, False
        if is_new:
            index, first = 0, one
        texts.append(text)
        size += len(text.encode())
        while size > DOCUMENT_BYTES:
            whole = "".join(texts)
            stop = _stop(whole, tokenizer)
            yield DocumentPart(index, whole[:stop], is_cut, first)
            texts, index = [whole[stop:]], index + 1
            size, is_cut = len(texts[0].encode()), not tokenizer.divides(whole[:stop], texts[0])
    if texts:
        yield DocumentPart(index, "".join(texts), is_cut, first)


def _stop(text: str, tokenizer: Tokenizer) -> int:
    """Return the number of characters in the first part of `text`, up to `DOCUMENT_BYTES`."""
    most = text.encode()[:DOCUMENT_BYTES].decode(errors="ignore")
    words = _WORDS.match(most)
    word = words.end() if words else 0
    if word and tokenizer.divides(text[:word], text[word:]):
        return word
    return most.rfind("\n") + 1 or word or len(most)
