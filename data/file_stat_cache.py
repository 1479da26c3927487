"""Remembers hashes and counts of the user's files, so that the next start need not read them.

An entry is valid as long as the file's inode, size and times are those recorded before it was read.
The system itself sets the time of the last status change (ctime), so nobody can set it back. If a
file changed just before it was read, nothing is stored, because a change right afterwards might get
the same time.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from data.cache import cache_dir, digest

SETTLED_SECONDS = 3
"""The time of an older change differs from all later ones: file systems are exact to 2 s or
less."""


class FileStatCache:
    """Remembers facts about files: `with FileStatCache(settings, what) as cache: ...`.

    New facts are saved at the end, in the cache of prepared data, in one file for each `what`:
    everything that decides which files are read, and which facts are found. If the file can't be
    read or written, nothing is remembered.
    """

    def __init__(self, settings: Any, *what: str):
        self._path = cache_dir(settings) / "files" / f"{digest(what)[:24]}.json"
        self._known: dict[str, Any] = {}
        self._used: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._known = dict(json.loads(self._path.read_bytes()))
        except (OSError, ValueError):
            self._known = {}
        return self

    def of(self, path: Path, find: Callable[[Path], Any]) -> Any:
        """Return `find(path)`, a JSON value; remembered if possible."""
        name, now, stamp = str(path.absolute()), time.time_ns(), _stamp(path)
        was, value = self._known.get(name, (None, None))
        if stamp is None or stamp != was:
            value = find(path)
            settled = stamp and now - stamp[-1] > SETTLED_SECONDS * 10**9
            if not settled or _stamp(path) != stamp:
                return value
        self._used[name] = [stamp, value]
        return value

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None or self._used == self._known:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self._path.parent)
            with open(descriptor, "w") as file:
                json.dump(self._used, file)
            os.replace(temporary, self._path)
        except OSError:  # The next start reads the files again; preparation reports the error.
            return


def _stamp(path: Path) -> list[int] | None:
    """Return what identifies a file's content: inode, size and times; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
