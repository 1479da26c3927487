"""Files of the user, each with a target, as rows: pictures in folders, recordings in lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.cache import digest
from data.sources.files import read_file
from data.sources.rows import ListedRows, Opened, Row, View


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


def opened_files(
    files: Mapping[str, Sequence[UserFile]], held_out: float, view: View, **more: Any
) -> Opened:
    """Return the files of each split as what a reader found.

    held_out, more: as in `Opened`.
    view: the view, whose two fields are the file and its target.
    """
    content, target = view.fields

    def row(one: UserFile) -> Row:
        return str(one.path), {content: one, target: one.target}

    contents = {
        split: digest([[one.name, one.target, one.sha256] for one in of])
        for split, of in files.items()
    }
    tables = {split: [ListedRows(split, of, row)] for split, of in files.items()}
    return Opened(tables, {"files": contents}, held_out, **more)
