"""A source of documents (text files or parts of them), read in pieces of bounded size."""

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.file_stat_cache import FileStatCache
from data.sources.opening import open_text
from data.sources.splits import Layout

PIECE_CHARACTERS = 2**14
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class TextFile:
    """A file of UTF-8 text: its path, its name in the corpus, its hash and its length."""

    path: Path
    name: str
    sha256: str
    characters: int


@dataclass(frozen=True)
class Document:
    """A part of a file: its characters in [start, stop)."""

    file: TextFile
    start: int
    stop: int


@dataclass(frozen=True)
class Documents:
    """A source of text. An example is a piece of a document.

    Its fields are `document` (the document's name), `piece` (the number of the piece, from 0) and
    `text`. Pieces have a bounded size, so that records don't grow with a document, and random ones
    are a fair sample of all text. If possible, a piece ends after a word, before white space.
    `data.text` joins the pieces again where a token may cross this boundary.

    layout: how the files were assigned to splits, if the user gave them.
    warnings: messages for the user.
    """

    name: str
    documents: Mapping[str, tuple[Document, ...]]
    invalid_utf8: str
    held_out: float
    layout: Layout[Path] | None = None
    warnings: tuple[str, ...] = ()

    @cached_property
    def splits(self) -> dict[str, int]:
        return {split: sum(map(_most_pieces, of)) for split, of in self.documents.items()}

    def characters(self) -> dict[str, int]:
        """Return the number of characters of each split."""
        return {
            split: sum(part.stop - part.start for part in of)
            for split, of in self.documents.items()
        }

    def source_key(self) -> dict[str, Any]:
        return {
            "invalid_utf8": self.invalid_utf8,
            "piece_characters": PIECE_CHARACTERS,
            "documents": {
                split: [[part.file.name, part.file.sha256, part.start, part.stop] for part in of]
                for split, of in self.documents.items()
            },
        }

    def features(self) -> dict[str, Any]:
        return text_features()

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        for document in self.documents[split]:
            for number, text in enumerate(pieces(_characters(document, self.invalid_utf8))):
                yield {"document": document.file.name, "piece": number, "text": text}


def whole(file: TextFile) -> Document:
    """Return `file` as a single document."""
    return Document(file, 0, file.characters)


def text_features() -> dict[str, Any]:
    """Return the TensorFlow Datasets features of a piece of a document."""
    import numpy as np
    import tensorflow_datasets as tfds

    text, number = tfds.features.Text(), tfds.features.Scalar(np.int64)
    return {"document": text, "piece": number, "text": text}


def pieces(blocks: Iterable[str]) -> Iterator[str]:
    """Cut the joined text of `blocks` into pieces.

    A piece has from `PIECE_CHARACTERS` to twice as many characters; the last may be shorter. An
    empty text has one empty piece.
    """
    text, count = "", 0
    for block in blocks:
        text += block
        start = 0
        while len(text) - start > 2 * PIECE_CHARACTERS:
            stop = _cut(text, start + PIECE_CHARACTERS, start + 2 * PIECE_CHARACTERS)
            yield text[start:stop]
            start, count = stop, count + 1
        text = text[start:]
    while text or not count:
        stop = _cut(text, PIECE_CHARACTERS, min(2 * PIECE_CHARACTERS, len(text)))
        yield text[:stop]
        text, count = text[stop:], count + 1


def read_text_files(
    files: Iterable[tuple[Path, str]], invalid_utf8: str, settings: Any, *what: str
) -> list[TextFile]:
    """Return a `TextFile` for each path and name in `files`.

    The file stat cache, opened with `settings` and `what`, avoids reading unchanged files again.

    invalid_utf8: "error", or "replace" to decode invalid bytes as U+FFFD.

    Raises UsageError if a file can't be read or, with "error", is not valid UTF-8.
    """

    def find(path: Path) -> tuple[str, int]:
        hasher, characters = hashlib.sha256(), 0
        for block, text in _blocks(path, invalid_utf8):
            hasher.update(block)
            characters += len(text)
        return hasher.hexdigest(), characters

    with FileStatCache(settings, "opened text", invalid_utf8, *what) as file_stat_cache:
        return [TextFile(path, name, *file_stat_cache.of(path, find)) for path, name in files]


def _blocks(path: Path, invalid_utf8: str) -> Iterator[tuple[bytes, str]]:
    """Yield a file in blocks of bytes, each with the characters that it completes."""
    errors = {"error": "strict", "replace": "replace"}[invalid_utf8]
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    read = 0
    try:
        with open_text(path) as file:
            while block := file.read(_BLOCK_BYTES):
                pending = len(decoder.getstate()[0])
                text = decoder.decode(block)
                read += len(block)
                yield block, text
        pending = len(decoder.getstate()[0])
        yield b"", decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        offset = read - pending + error.start
        raise UsageError(
            f"{path} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {offset}. "
            "Convert the file, or set data.invalid_utf8=replace"
        ) from None


def _characters(document: Document, invalid_utf8: str) -> Iterator[str]:
    """Yield the text of `document` in blocks."""
    place = 0
    for _, text in _blocks(document.file.path, invalid_utf8):
        first, last = document.start - place, document.stop - place
        place += len(text)
        if last <= 0:
            return
        if first < len(text):
            yield text[max(first, 0) : last]


def _cut(text: str, first: int, last: int) -> int:
    """Return the first index in [first, last) at which a word is followed by white space; `last`
    if there is none."""
    for place in range(first, last):
        if text[place].isspace() and not text[place - 1].isspace():
            return place
    return last


def _most_pieces(document: Document) -> int:
    return -(-(document.stop - document.start) // PIECE_CHARACTERS)
