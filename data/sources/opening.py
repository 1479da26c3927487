"""Opens the user's files of text as streams of bytes. Their first bytes tell how they are stored,
and not their names.

Compressed files are decompressed while they are read. Files that are no UTF-8 text by their first
bytes, such as UTF-16, archives and pointers of Git LFS, are refused.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.files import GIT_LFS_POINTER
from data.progress import Reached, unwatched
from data.sources.files import WatchedFile, unreadable

_HEAD_BYTES = 2**18
_FEWEST_BYTES = 32  # fewer prove nothing
_SMALL = bytes(range(16))

_ENCODINGS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_OTHERS = (
    (
        re.escape(GIT_LFS_POINTER),
        "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
    ),
    (rb"PK\x03\x04", "a ZIP archive or a workbook of Excel: unpack it, or save it as CSV"),
    (rb".{257}ustar", "a tar archive: unpack it"),
    (
        rb"PAR1\x15",
        "a Parquet file, and no text: data.source=records reads it, if its name ends in .parquet",
    ),
)


@contextlib.contextmanager
def open_text(path: Path, reached: Reached = unwatched) -> Iterator[io.BufferedReader]:
    """Open a file of text as a stream of bytes for a `with` block, decompressed if its first bytes
    are those of gzip, bzip2, xz or Zstandard.

    reached: called with the number of bytes of the file that are read so far.

    Memory does not grow with the file. Raises UsageError if the file can't be read, is damaged, or
    is no UTF-8 text by its first bytes.
    """
    with open_bytes(path, reached) as plain:
        refuse_other_files(path, plain.peek(_HEAD_BYTES))
        yield plain


@contextlib.contextmanager
def open_bytes(path: Path, reached: Reached = unwatched) -> Iterator[io.BufferedReader]:
    """Open a file as `open_text` does, whatever it contains."""
    try:
        with io.BufferedReader(WatchedFile(path, reached), _HEAD_BYTES) as file:
            yield _decompressed(str(path), file)
    except OSError as error:
        raise unreadable(path, error) from None


def decompressed(where: str, content: bytes) -> bytes:
    """Return the content of a compressed file, and any other content as it is. where: the place of
    the file, for the error if it is damaged, a UsageError."""
    return _decompressed(where, io.BufferedReader(io.BytesIO(content))).read()


def lines_of(path: Path, reached: Reached = unwatched) -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and the bytes of each line of a file of text, opened by
    `open_text`.

    A line ends with a line feed. Only if there is none but carriage returns, as on old Macs, do
    these end lines. Raises UsageError as `open_text` does.
    """
    with open_text(path, reached) as file:
        head = file.peek(_HEAD_BYTES)
        old_mac = b"\r" in head and b"\n" not in head
        yield from enumerate(_split_at_returns(file) if old_mac else file, 1)


def refuse_other_files(path: Path, head: bytes) -> None:
    """Raise UsageError if a file that begins with `head` is not UTF-8 text, but something else that
    people take for it."""
    for begin, what in _OTHERS:
        if re.match(begin, head, re.DOTALL):
            raise UsageError(f"{path} is {what}")
    marked = next((name for mark, name in _ENCODINGS if head.startswith(mark)), None)
    if encoding := marked or _unmarked_encoding(head):
        raise UsageError(
            f"{path} is {encoding} text: save it as UTF-8, for instance with "
            f"iconv -f {encoding} -t UTF-8 {path} > NEW"
        )


class _Decompressed(io.RawIOBase):
    """A stream of decompressed bytes. Damage raises UsageError, which begins with `where`."""

    def __init__(self, where: str, stream: Any):
        self._where, self._stream, self._count = where, stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._stream.read(len(buffer))
        except Exception as error:
            raise UsageError(
                f"{self._where} is damaged after {self._count:,} bytes of its text: {error}"
            ) from None
        buffer[: len(block)] = block
        self._count += len(block)
        return len(block)


def _open_zstandard(file: io.BufferedReader) -> Any:
    import pyarrow  # slow to import

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


_OPENERS = (
    (re.compile(rb"\x1f\x8b\x08"), gzip.open),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL), _open_zstandard),
)


def _decompressed(where: str, file: Any) -> Any:
    head = file.peek(16)
    opened = next((opened for begin, opened in _OPENERS if begin.match(head)), None)
    if opened is None:
        return file
    return io.BufferedReader(_Decompressed(where, opened(file)), _HEAD_BYTES)


def _split_at_returns(file: io.BufferedReader) -> Iterator[bytes]:
    rest = b""
    while block := file.read(_HEAD_BYTES):
        *lines, rest = (rest + block).split(b"\r")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _unmarked_encoding(head: bytes) -> str | None:
    """Return the encoding of a text without a byte order mark that has NUL bytes; None for UTF-8,
    and for what is no text at all.

    In UTF-16, every other byte says which script a character belongs to. Nearly all of these are
    small, which no bytes of a text are but its tabs and line ends.
    """
    if len(head) < _FEWEST_BYTES or head.count(0) < len(head) / 50:
        return None
    halves = (head[::2], head[1::2])
    shares = [1 - len(half.translate(None, _SMALL)) / len(half) for half in halves]
    for order, (script, rest) in (("LE", shares[::-1]), ("BE", shares)):
        if script > 0.9:
            return f"UTF-{32 if rest > 0.4 else 16}{order}"
    return None
