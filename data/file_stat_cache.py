"""Caches hashes and counts of the user's files, so that the next run need not read the files.

An entry is valid while the file has the inode, size and times that it had before it was read. One
of these times is the time of the last status change (ctime), which programs can't set. A file that
changed just before it was read is not cached, because a second change might get the same time.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from data.cache import cache_dir, digest
from data.progress import FileReading, Progress, Reached, file_size, silent

SETTLED_SECONDS = 3
"""A file is cached if its last change is older than this. File systems store times to within 2 s or
less, so a later change then has another time."""


class FileStatCache:
    """Caches a value for each file: `with FileStatCache(settings, *what) as cache: ...`.

    settings: `config.data`.
    what: strings that identify the set of files and the function that computes the values; each
        combination has its own cache file, in the cache of prepared data.

    The cache file is written at the end of the `with` block, unless the block raises an error. If
    the cache file can't be read or written, the values are computed again.
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
        """Return `find(path)`, a JSON value, from the cache if the file has not changed."""
        name, now, stamp = str(path.absolute()), time.time_ns(), _stamp(path)
        was, value = self._known.get(name, (None, None))
        if stamp is None or stamp != was:
            value = find(path)
            settled = stamp and now - stamp[-1] > SETTLED_SECONDS * 10**9
            if not settled or _stamp(path) != stamp:
                return value
        self._used[name] = [stamp, value]
        return value

    def of_all(
        self,
        paths: Sequence[Path],
        find: Callable[[Path, Reached], Any],
        progress: Progress = silent,
        stage: str = "",
    ) -> list[Any]:
        """Return `find(path, reached)` of each path, as `of` does, and report the progress of
        reading files.

        progress, stage: as in `data.progress.FileReading`, which also says what `reached` is.
        """
        new = (path for path in paths if str(path.absolute()) not in self._known)
        reading = FileReading(progress, stage, sum(map(file_size, new)))
        found = [self.of(path, lambda path: reading.read(path, find)) for path in paths]
        reading.end()
        return found

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
    """Return the inode, size and times of a file, which identify its content; None if missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
