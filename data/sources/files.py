"""Finds the user's files (a file, a folder or a glob), and reads them."""

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UsageError
from configs.reading.patterns import is_pattern, matching
from data.progress import Reached, unwatched
from data.sources.splits import Layout, assign, listed, trained_on
from data.sources.suffixes import ARCHIVES, without_compression

_SYSTEM_FOLDERS = ("@eadir", "$recycle.bin", "lost+found", "system volume information", "__macosx")
_BACKUPS = ("~", ".bak", ".orig", ".swp")


def find_files(
    settings: Any, accepts: Callable[[Path], bool] = lambda path: True
) -> tuple[Layout[Path], Path]:
    """Return the files at `data.path` by split, sorted by name, and the folder that names are
    relative to.

    The path is a file, a folder, or a pattern as in `configs.reading.patterns`. The files of a
    folder are assigned to splits by `splits.assign`; a file, and what a pattern matches, is for
    training. A folder may have no files. Editors' backups are left out with a warning, except if a
    pattern matches nothing else.

    settings: `config.data`.
    accepts: returns whether to take a file of a folder or glob.

    Raises UsageError if there is no such file or folder, if no file matches a glob, if a file and
    its compressed copy are there, or if a folder is not clearly divided into splits.
    """
    given, path, left_out = settings.path, Path(settings.path).expanduser(), list[Path]()
    if path.is_dir():
        files = sorted(file for file in files_in(path, left_out) if accepts(file))
        refuse_copies(files)
        layout = assign(files, lambda file: name_below(path, file), settings)
        warnings = (*_left_out(path, filter(accepts, left_out)), *layout.warnings)
        return replace(layout, warnings=warnings), path
    if path.is_file():
        files, root = [path], path.parent
    elif not is_pattern(given):
        raise UsageError(f"{given}: there is no such file or folder")
    else:
        found = map(Path, matching(str(path)))
        files = sorted(file for file in found if file.is_file() and accepts(file))
        if not files:
            raise UsageError(f"{given}: no file matches")
        kept = [file for file in files if not _is_backup(file.name)] or files
        refuse_copies(kept)
        left_out, files = sorted({*files} - {*kept}), kept
        root = Path(os.path.commonpath([file.parent for file in files]))
    names = [name_below(root, file) for file in files] if settings.splits == "names" else []
    return Layout({"train": files}, {}, (*_left_out(root, left_out), *trained_on(names))), root


def hold_archives(given: str) -> bool:
    """Return whether a file, or at least a quarter of the files of a folder or pattern, are tar
    archives by their names; descriptions may be beside them."""
    path = Path(given).expanduser()
    found = files_in(path) if path.is_dir() else map(Path, matching(str(path)))
    names = [file.name.lower() for file in found]
    archives = sum(name.endswith(ARCHIVES) for name in names)
    return 0 < len(names) <= 4 * archives


def files_in(folder: Path, left_out: list[Path] | None = None) -> Iterator[Path]:
    """Yield all files in `folder` and its subfolders, except hidden ones and linked folders.

    left_out: a list to which those files are appended that are not yielded, though they are not
        hidden: editors' backups, and what is no regular file, such as a pipe, which might never
        end.

    Raises UsageError if a folder can't be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            path = Path(parent) / name
            if is_hidden(name):
                continue
            if _is_backup(name) or (not path.is_file() and os.path.exists(path)):
                if left_out is not None:
                    left_out.append(path)
            else:  # with links to what is not there: reading them is an error
                yield path


def refuse_copies(paths: Iterable[Path]) -> None:
    """Raise UsageError if two of `paths` are a file and its compressed copy by their names, in one
    folder: every example would be read twice."""
    found: dict[tuple[Path, str], Path] = {}
    for path in paths:
        first = found.setdefault((path.parent, without_compression(path.name)), path)
        if first != path:
            raise UsageError(
                f"{first} and {path} are copies of one file by their names, and every example "
                "would be read twice: move one of them elsewhere"
            )


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden by its name: it begins with a dot, or is a folder
    in which a system keeps its own files, such as thumbnails."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def _is_backup(name: str) -> bool:
    return name.startswith("~$") or name.lower().endswith(_BACKUPS)


def _left_out(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    if names := [name_below(root, path) for path in sorted(paths)]:
        yield (
            f"{listed(names)} {'is' if len(names) == 1 else 'are'} left out: editors' backups "
            f"(~$*, *{', *'.join(_BACKUPS)}) and what is no regular file are not read"
        )


def _refuse(error: OSError) -> NoReturn:
    raise unreadable(Path(error.filename), error) from None


def unreadable(path: Path, error: OSError) -> UsageError:
    """Return the error for a file or folder that can't be read, or for a link to nothing."""
    if path.is_symlink() and not os.path.exists(path):
        to = os.readlink(path)
        return UsageError(f"{path} is a link to {to}, which is not there: mend or delete it")
    return UsageError(f"{path} can't be read: {error.strerror or error}")


def read_file(path: Path) -> bytes:
    """Return the bytes of a file. Raises UsageError if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


class WatchedFile(io.FileIO):
    """A file, opened for reading, that calls `reached` after each block."""

    def __init__(self, path: Path, reached: Reached):
        super().__init__(path)
        self._reached = reached

    def readinto(self, buffer: Any) -> int:
        count = super().readinto(buffer)
        self._reached(self.tell())
        return count


def file_sha256(path: Path, reached: Reached = unwatched) -> str:
    """Return the SHA-256 of a file, read in blocks. Raises UsageError if it can't be read."""
    try:
        with WatchedFile(path, reached) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def name_below(root: Path, path: Path) -> str:
    """Return the path relative to `root`, as text; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
