"""Remembers hashes and counts of the user's files, so that the next start need not read them.

An entry holds as long as inode, size, and the times of the last change are those from before the
file was read. The system sets the second of these times (ctime) itself: whoever changes a file
can't set it back. Of a file that changed just before it was read nothing is kept, because a change
right afterwards may carry the same time.
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
"""Older changes than this differ in time from all later ones: file systems count 2 s at most."""


class FileStatCache:
    """`with FileStatCache(settings, what) as cache: ...` writes down what is new, in the end.

    It lies in the cache of prepared data, in a file for each `what`: all that decides which
    files are read, and what is found out about them. Where that can't be read or written, nothing
    is remembered.
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
        """Return what `find` returns of the file at `path`, as JSON; remembered where it can be."""
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
        except OSError:  # The next start reads the files again; preparation says what is wrong.
            return


def _stamp(path: Path) -> list[int] | None:
    """Return what identifies a file's content: inode, size, times; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
