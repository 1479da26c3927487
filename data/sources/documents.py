"""Documents (text files or parts of them) as rows, and pieces of bounded size of any text."""

import codecs
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.file_stat_cache import FileStatCache
from data.progress import Progress, Reached, unwatched
from data.sources.opening import open_text
from data.sources.rows import ListedRows, Opened, Row, View

PIECE_CHARACTERS = 2**14
_BLOCK_BYTES = 2**20


@dataclass(frozen=True)
class Document:
    """A file of UTF-8 text, or a part of it: its path, its name in the corpus, the file's hash, and
    the characters in [start, stop)."""

    path: Path
    name: str
    sha256: str
    stop: int
    start: int = 0


def opened_documents(
    documents: Mapping[str, Sequence[Document]],
    held_out: float,
    view: View,
    *,
    invalid_utf8: str,
    **more: Any,
) -> Opened:
    """Return the documents of each split as what a reader found.

    The value of a row's field is an iterator over the blocks of its text, so that no document is in
    memory as a whole.

    held_out, more: as in `Opened`.
    invalid_utf8: "error", or "replace" to decode invalid bytes as U+FFFD.
    """
    (field,) = view.fields

    def row(part: Document) -> Row:
        return str(part.path), {field: _characters(part, invalid_utf8)}

    sizes = {split: sum(part.stop - part.start for part in of) for split, of in documents.items()}
    parts = {
        split: [[part.name, part.sha256, part.start, part.stop] for part in of]
        for split, of in documents.items()
    }
    return Opened(
        {split: [ListedRows(split, of, row, sizes[split])] for split, of in documents.items()},
        {"documents": parts},
        held_out,
        characters=sizes,
        **more,
    )


def pieces(blocks: Iterable[str]) -> Iterator[str]:
    """Cut the joined text of `blocks` into pieces, so that records don't grow with a document, and
    random ones are a fair sample of all text.

    If possible, a piece ends after a word, before white space. It has from `PIECE_CHARACTERS` to
    twice as many characters; the last may be shorter. An empty text has one empty piece.
    `data.document_encoding` joins pieces again where a token may cross their boundary.
    """
    text, count = "", 0
    for block in blocks:
        text = text + block if text else block
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
    files: Mapping[Path, str],
    invalid_utf8: str,
    settings: Any,
    *what: str,
    progress: Progress,
    stage: str,
) -> list[Document]:
    """Return a document for each of the `files`, with their names, that has any text.

    The file stat cache, opened with `settings` and `what`, avoids reading unchanged files again.

    invalid_utf8: "error", or "replace" to decode invalid bytes as U+FFFD.
    progress, stage: as in `FileStatCache.of_all`.

    Raises UsageError if a file can't be read or, with "error", is not valid UTF-8.
    """

    def find(path: Path, reached: Reached) -> tuple[str, int]:
        hasher, characters = hashlib.sha256(), 0
        for block, text in _blocks(path, invalid_utf8, reached):
            hasher.update(block)
            characters += len(text)
        return hasher.hexdigest(), characters

    with FileStatCache(settings, "opened text", invalid_utf8, *what) as file_stat_cache:
        found = file_stat_cache.of_all([*files], find, progress, stage)
    documents = [
        Document(path, name, *of) for (path, name), of in zip(files.items(), found, strict=True)
    ]
    return [one for one in documents if one.stop]


def _blocks(
    path: Path, invalid_utf8: str, reached: Reached = unwatched
) -> Iterator[tuple[bytes, str]]:
    """Yield a file in blocks of bytes, each with the characters that it completes."""
    errors = {"error": "strict", "replace": "replace"}[invalid_utf8]
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    read = 0
    try:
        with open_text(path, reached) as file:
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
    for _, text in _blocks(document.path, invalid_utf8):
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
