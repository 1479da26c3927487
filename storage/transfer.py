"""Copies objects to files, so that what was copied is known to be what the store has."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from configs.errors import StorageError
from configs.files import sync_file
from storage.store import PIECE, Entry, Store

PART = ".part"
"""Ends the name of a file that is being copied. It is a hidden file."""


def download(
    store: Store,
    name: str,
    entry: Entry,
    path: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Copy an object to `path`, in whose folder nothing else writes.

    The bytes are first written beside it. What an earlier call has left there, of the same version
    of the object, is gone on with. The file is on the disk before it has its name.

    advance: called with the number of bytes that have come.

    Raises `StorageError` if the object is shorter than `entry` says, or if the bytes do not have
    its MD5; FileNotFoundError if the object is gone.
    """
    version = hashlib.sha256(entry.version.encode()).hexdigest()[:8]
    part = path.with_name(f".{path.name}.{version}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab") as file:
        have = file.tell()
        if have > entry.size:
            have = file.truncate(0)
        advance(have)
        while have < entry.size:
            content = store.read(name, have, min(entry.size, have + PIECE))
            if not content:
                break
            file.write(content)
            have += len(content)
            advance(len(content))
    problem = None
    if have != entry.size:
        problem = f"{have:,} of {entry.size:,} bytes came"
    elif entry.md5 is not None and file_md5(part) != entry.md5 and store.is_md5(name):
        problem = "what came has another MD5"
    if problem is not None:
        part.unlink()
        raise StorageError(f"{store.url}/{name}: {problem}; run the same command again")
    sync_file(part)
    part.replace(path)


def file_md5(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
