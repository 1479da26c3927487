"""Finds the user's files (a file, a folder or a glob), and assigns them to splits."""

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from configs.errors import UsageError

SPLITS = ("train", "validation", "test")
_MISNAMED = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train",
             "testing": "test"}  # fmt: skip

Files = tuple[list[Path], Path]
"""The files of a split, and the folder that their names are relative to."""


def find_files(given: str, accepts: Callable[[Path], bool] = lambda path: True) -> dict[str, Files]:
    """Return the files of each split, sorted by name, and the folder that names are relative to.

    given: a file, a folder or a glob.
    accepts: returns whether to take a file of a folder or glob.

    If a folder has subfolders named train, validation or test, only these are read. If all its
    files are named after splits (train.txt, test.jsonl.gz, train-00000-of-00002.parquet), each
    belongs to that split. Otherwise all files are for training. A folder may have no files.

    Raises UsageError if there is no file or folder `given`, if no file matches a glob, or if a
    folder has splits but no train.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return {"train": ([path], path.parent)}
    if path.is_dir():
        return {s: (sorted(files), path) for s, files in _parts(path, accepts).items()}
    if not glob.has_magic(given):
        raise UsageError(f"{given}: there is no such file or folder")
    found = (Path(name) for name in glob.glob(str(path), recursive=True))
    files = sorted(file for file in found if file.is_file() and accepts(file))
    if not files:
        raise UsageError(f"{given}: no file matches")
    return {"train": (files, Path(os.path.commonpath([file.parent for file in files])))}


def _parts(folder: Path, accepts: Callable[[Path], bool]) -> dict[str, list[Path]]:
    """Return the files of each split of `folder`; all files are for training if it has no
    splits."""
    files = [path for path in files_in(folder) if accepts(path)]
    parts = {
        split: [path for path in files if path.is_relative_to(part)]
        for split, part in split_folders(folder).items()
    }
    if not parts and all(file.parent == folder and split_of(file) for file in files):
        parts = {split: [file for file in files if split_of(file) == split] for split in SPLITS}
        parts = {split: files for split, files in parts.items() if files}
    if parts and "train" not in parts:
        raise UsageError(f"{folder} holds {' and '.join(parts)}, but no train")
    return parts or {"train": files}


def split_folders(root: Path) -> dict[str, Path]:
    """Return the existing subfolders of `root` named train, validation or test, by split.

    Raises UsageError if several subfolders seem to be splits and one is misnamed, such as val or
    Test. One misnamed subfolder alone is no error, as it may be a class: Bus, Car, Train.
    """
    parts = {split: root / split for split in SPLITS if (root / split).is_dir()}
    folders = sorted(one for one in root.iterdir() if one.is_dir())
    meant = {folder: split for folder in folders if (split := meant_split(folder.name))}
    for folder, right in meant.items():
        if right not in parts and len({*meant.values()}) > 1:
            raise UsageError(f"{folder} should be called {right}: rename it")
    return parts


def split_of(file: Path) -> str | None:
    """Return the split that a file is named after (train.txt: train), or None."""
    named = re.fullmatch(rf"({'|'.join(SPLITS)})(-\d+-of-\d+)?(\..*)?", file.name)
    return named[1] if named else None


def meant_split(name: str) -> str | None:
    """Return the split that the user probably means by `name` (Train, training: train), or None."""
    meant = _MISNAMED.get(name.lower(), name.lower())
    return meant if meant in SPLITS else None


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
