"""Files of the user, each with a target, as rows: pictures in folders, recordings in lists."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from data.cache import digest
from data.sources.files import read_file
from data.sources.rows import Opened, Row, View, Wanted
from data.sources.source import hold_out
from data.sources.splits import SPLITS


@dataclass(frozen=True)
class UserFile:
    """A file, the name of its example, its target (a text, or the number of a class), and its
    hash."""

    path: Path
    name: str
    target: Any
    sha256: str

    def read(self) -> bytes:
        """Return the bytes of the file. Raises UsageError if it can't be read."""
        return read_file(self.path)


@dataclass(frozen=True)
class FileRows:
    """The files of a split as rows. fields: the names of the file itself, and of its target."""

    name: str
    files: Sequence[UserFile]
    fields: Sequence[str]
    size = 0

    @property
    def rows(self) -> int:
        """The number of files."""
        return len(self.files)

    def name_of(self, row: int) -> str:
        """Return the name of a file's example."""
        return self.files[row].name

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        """Yield the wanted rows, with both fields."""
        for one in self.files if wanted is None else compress(self.files, wanted):
            yield str(one.path), dict(zip(self.fields, (one, one.target), strict=True))


def hold_out_files(
    files: Mapping[str, list[UserFile]], settings: Any
) -> tuple[dict[str, list[UserFile]], float]:
    """Return the files of each split, and the share that was held out for validation.

    files: the files of each split. Without validation, `data.validation_fraction` of those of train
    is held out, by a hash of their names. Splits without files are left out.
    """
    splits, share = dict(files), 0.0
    if "validation" not in files and settings.validation_fraction:
        share = settings.validation_fraction
        train, validation = hold_out(files["train"], share, lambda one: one.name)
        splits |= {"train": train, "validation": validation}
    return {split: splits[split] for split in SPLITS if splits.get(split)}, share


def opened_files(
    files: Mapping[str, Sequence[UserFile]], held_out: float, view: View, **more: Any
) -> Opened:
    """Return files as what a reader found. files, held_out: the results of `hold_out_files`."""
    contents = {
        split: digest([[one.name, one.target, one.sha256] for one in of])
        for split, of in files.items()
    }
    tables = {split: [FileRows(split, of, [*view.fields])] for split, of in files.items()}
    return Opened(tables, {"files": contents}, held_out, **more)
