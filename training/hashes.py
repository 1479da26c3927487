"""Hashes of a checkpoint's files, computed in pieces by many threads and by all hosts of a run.

A hash shows that a file is what was written, not who wrote it. For this, XXH3 with 128 bits is as
good as SHA-256, and about as fast as memory.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

Hashes = Mapping[str, Sequence[Any]]
"""[size in bytes, hash of each piece ...] of each file, by its path relative to the step."""

BLOCK = 1 << 20
"""Bytes of a file that are read at once."""

_THREADS = 8


@dataclass(frozen=True)
class Hashing:
    """How the files of a checkpoint are hashed.

    name: of the hash, in messages.
    piece_bytes: a longer file is hashed in pieces of this length; None: as a whole.
    """

    name: str
    new: Callable[[], Any]
    piece_bytes: int | None

    def pieces(self, name: str, size: int) -> list["Piece"]:
        """Return the pieces of a file, at least one."""
        length = size if self.piece_bytes is None else self.piece_bytes
        starts = range(0, size, length) if size else (0,)
        return [Piece(name, n, at, min(length, size - at)) for n, at in enumerate(starts)]


@dataclass(frozen=True)
class Piece:
    """A part of a file: the name of the file, the number of the piece, and its bytes."""

    name: str
    number: int
    start: int
    length: int


FORMATS = {
    1: Hashing("SHA-256", hashlib.sha256, None),
    2: Hashing("XXH3", xxhash.xxh3_128, 16 << 20),
}
"""The hashing of each format of manifests."""

NEWEST_FORMAT = 2


def list_sizes(folder: Path, besides: str) -> dict[str, int]:
    """Return the bytes of every file in a step by its relative path, without the file `besides`."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / besides
    }


def bytes_on_disk(hashes: Hashes) -> int:
    """Return the bytes that files need on a disk with blocks of 4 KiB."""
    return sum(-(-size // 4096) * 4096 for size, *_ in hashes.values())


def written_by(name: str, count: int) -> int:
    """Return which of the `count` processes of a run wrote a file of a step: Orbax names the files
    of each process after it, and the first process writes all others."""
    found = re.search(r"(?:^|/)(?:ocdbt\.)?process_(\d+)(?:/|$)", name)
    writer = int(found[1]) if found else 0
    return writer if writer < count else 0


def hash_files(folder: Path, sizes: Mapping[str, int]) -> dict[str, list[Any]]:
    """Hash files of a step in the newest format. sizes: their bytes, by relative path."""
    hashing = FORMATS[NEWEST_FORMAT]
    pieces = [piece for name, size in sizes.items() for piece in hashing.pieces(name, size)]
    hashes: dict[str, list[Any]] = {name: [size] for name, size in sizes.items()}
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda piece: hash_piece(folder, piece, hashing), pieces)
        for piece, digest in zip(pieces, digests, strict=True):
            hashes[piece.name].append(digest)
    return hashes


def find_faults(
    folder: Path, hashes: Hashes, hashing: Hashing, pieces: Iterable[Piece]
) -> dict[str, str]:
    """Compare pieces of a step's files with their hashes. Return what is wrong with each file that
    is damaged, by name."""

    def fault(piece: Piece) -> str | None:
        try:
            digest = hash_piece(folder, piece, hashing)
        except FileNotFoundError:
            return "is missing"
        except OSError as error:
            return f"can't be read ({error.strerror})"
        expected = hashes[piece.name][1 + piece.number]
        return None if digest == expected else f"is damaged (its {hashing.name} differs)"

    pieces = list(pieces)
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(fault, pieces))
    return {
        piece.name: f"{folder / piece.name} {text}"
        for piece, text in zip(pieces, found, strict=True)
        if text is not None
    }


def share_of(pieces: Iterable[Piece], index: int, count: int) -> list[Piece]:
    """Return the pieces that process `index` of `count` reads: all processes together read each
    piece once, and each of them about as many bytes."""
    pieces, share, before = list(pieces), [], 0
    total = sum(piece.length for piece in pieces) or 1
    for piece in pieces:
        if min(before * count // total, count - 1) == index:
            share.append(piece)
        before += piece.length
    return share


def hash_piece(folder: Path, piece: Piece, hashing: Hashing) -> str:
    """Read a piece of a file, and return its hash in hexadecimal digits."""
    hasher, left = hashing.new(), piece.length
    buffer = memoryview(bytearray(min(left, BLOCK)))
    with (folder / piece.name).open("rb", buffering=0) as file:
        file.seek(piece.start)
        while left and (count := file.readinto(buffer[:left])):
            hasher.update(buffer[:count])
            left -= count
    return hasher.hexdigest()
