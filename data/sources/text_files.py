"""The user's own text: a file, a folder of files, or a glob; each file a document."""

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs import UsageError
from data.sources.documents import Document, Documents, TextFile, read_facts, whole
from data.sources.source import held_out

SPLITS = ("train", "validation", "test")


def open_source(settings: Any) -> Documents:
    """The files at `data.path`, in the order of their names.

    A folder may hold folders train, validation and test: then these alone are read; or be made
    of files of those names (train.txt, test.txt) and nothing else. Without a validation part,
    `data.validation_fraction` of the training part is held out: of several files whole ones by
    a hash of their names, of one its last characters.
    Raises UsageError where there is no text.
    """
    documents = {
        split: tuple(whole(file) for file in _read(split, paths, root, settings))
        for split, (paths, root) in _find(settings.path).items()
    }
    if "validation" not in documents and settings.validation_fraction:
        documents |= _hold_out(documents["train"], settings)
    return Documents("text_files", {s: documents[s] for s in SPLITS if s in documents},
                     settings.invalid_utf8)  # fmt: skip


def _find(given: str) -> dict[str, tuple[list[Path], Path]]:
    """For each split its files, and the folder that their names begin at."""
    path = Path(given).expanduser()
    if path.is_file():
        return {"train": ([path], path.parent)}
    if path.is_dir():
        return {split: (sorted(files), path) for split, files in _parts(path).items()}
    if not glob.has_magic(given):
        raise UsageError(f"data.path={given}: there is no such file or folder")
    found = (Path(name) for name in glob.glob(str(path), recursive=True))
    files = sorted(file for file in found if file.is_file())
    if not files:
        raise UsageError(f"data.path={given}: no file matches")
    return {"train": (files, Path(os.path.commonpath([file.parent for file in files])))}


def _parts(folder: Path) -> dict[str, list[Path]]:
    """The files of each split of `folder`; all of them for training where it has no splits."""
    parts = {split: [*_files_in(folder / split)] for split in SPLITS if (folder / split).is_dir()}
    files = [*_files_in(folder)]
    if not parts and all(file.parent == folder and file.stem in SPLITS for file in files):
        parts = {split: [file for file in files if file.stem == split] for split in SPLITS}
        parts = {split: files for split, files in parts.items() if files}
    if parts and "train" not in parts:
        raise UsageError(f"data.path={folder} holds {' and '.join(parts)}, but no train")
    return parts or {"train": files}


def _files_in(folder: Path) -> Iterator[Path]:
    """All files below `folder` but hidden ones; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield Path(parent) / name


def _read(split: str, paths: list[Path], root: Path, settings: Any) -> list[TextFile]:
    """Facts of the files of `split` that hold text."""
    files = [
        read_facts(path, path.relative_to(root).as_posix(), settings.invalid_utf8) for path in paths
    ]
    filled = [file for file in files if file.characters]
    if not filled:
        what = f"{paths[0]} is empty" if len(paths) == 1 else f"{root} holds no text"
        raise UsageError(f"data.path={settings.path}: {what} for {split}")
    return filled


def _hold_out(train: tuple[Document, ...], settings: Any) -> dict[str, tuple[Document, ...]]:
    """The training part, parted into training and validation."""
    fraction = settings.validation_fraction
    if len(train) > 1:
        names = held_out((document.file.name for document in train), fraction)
        return {
            "train": tuple(one for one in train if one.file.name not in names),
            "validation": tuple(one for one in train if one.file.name in names),
        }
    file = train[0].file
    cut = int(file.characters * (1 - fraction))
    if not 0 < cut < file.characters:
        raise UsageError(
            f"data.path={settings.path}: of {file.characters} characters nothing is left for "
            f"{'validation' if cut else 'training'} with data.validation_fraction={fraction}. "
            "Give more text, or data.validation_fraction=0 for no validation"
        )
    return {
        "train": (Document(file, 0, cut),),
        "validation": (Document(file, cut, file.characters),),
    }
