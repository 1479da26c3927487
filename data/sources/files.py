"""Finds the user's files (a file, a folder or a glob), and reads them."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UsageError
from data.sources.splits import Layout, assign, trained_on


def find_files(
    settings: Any, accepts: Callable[[Path], bool] = lambda path: True
) -> tuple[Layout[Path], Path]:
    """Return the files at `data.path` by split, sorted by name, and the folder that names are
    relative to.

    The path is a file, a folder or a glob. The files of a folder are assigned to splits by
    `splits.assign`; a file, and what a glob matches, is for training. A folder may have no files.

    settings: `config.data`.
    accepts: returns whether to take a file of a folder or glob.

    Raises UsageError if there is no such file or folder, if no file matches a glob, or if a folder
    is not clearly divided into splits.
    """
    given, path = settings.path, Path(settings.path).expanduser()
    if path.is_dir():
        files = sorted(file for file in files_in(path) if accepts(file))
        return assign(files, lambda file: name_below(path, file), settings), path
    if path.is_file():
        files, root = [path], path.parent
    elif not glob.has_magic(given):
        raise UsageError(f"{given}: there is no such file or folder")
    else:
        found = (Path(name) for name in glob.glob(str(path), recursive=True))
        files = sorted(file for file in found if file.is_file() and accepts(file))
        if not files:
            raise UsageError(f"{given}: no file matches")
        root = Path(os.path.commonpath([file.parent for file in files]))
    names = [name_below(root, file) for file in files] if settings.splits == "names" else []
    return Layout({"train": files}, {}, trained_on(names)), root


def files_in(folder: Path) -> Iterator[Path]:
    """Yield all files in `folder` and its subfolders, except hidden ones and linked folders.

    Raises UsageError if a folder can't be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(parent) / name


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename} can't be read: {error.strerror}") from None


def read_file(path: Path) -> bytes:
    """Return the bytes of a file. Raises UsageError if it can't be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks. Raises UsageError if it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None


def name_below(root: Path, path: Path) -> str:
    """Return the path relative to `root`, as text; bytes that are not UTF-8 become escapes."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
