"""Warns about what is in the user's tables and not read: other columns, and blank rows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UsageError
from data.file_stat_cache import FileStatCache
from data.progress import Progress, Reached
from data.sources.values import listed_names

if TYPE_CHECKING:
    from data.sources.tables import Rows

_SPLITS = ("split", "fold", "subset")
_STARTS = ("offset", "start", "begin")
_MOST_VALUES = 20  # more are no names of splits


def describe_unread(
    tables: Mapping[str, Sequence["Rows"]],
    read: Iterable[str],
    settings: Any,
    progress: Progress,
) -> Iterator[str]:
    """Yield a warning for columns that are not read, for each column that assigns the rows of a
    table to splits, and for the blank rows of a table.

    tables: the tables of each split.
    read: the columns that are read.
    settings: `config.data`. What is found is kept in the file stat cache.

    Raises UsageError if a table can't be read.
    """
    read, unread = sorted(set(read)), dict[str, None]()
    for split, of in tables.items():
        root = str(of[0].path.absolute())
        with FileStatCache(
            settings, "unread", of[0].invalid_utf8, *read, split, root
        ) as file_stat_cache:
            look = partial(_look, {one.path: one for one in of}, read)
            paths, stage = [one.path for one in of], f"looking through {split}"
            found = file_stat_cache.of_all(paths, look, progress, stage)
        for table, (columns, values, blank) in zip(of, found, strict=True):
            unread |= dict.fromkeys(name for name in columns if name not in values)
            for name, there in values.items():
                yield (
                    f"{table.path} has a column {name!r} with {' and '.join(there[:3])}, which is "
                    f"not read: all its rows are for {'training' if split == 'train' else split}; "
                    "make a file of each split"
                )
            if blank:
                rows = "blank row is" if blank == 1 else "blank rows are"
                yield f"{table.path}: {blank:,} {rows} left out"
    if unread:
        yield f"columns that are not read: {listed_names(unread)}"


def refuse_segments(table: "Rows", read: Iterable[str]) -> None:
    """Raise UsageError if a row of a table of recordings begins inside of its file, by a column
    that is not among those `read`."""
    for name in table.columns:
        if name.casefold() not in _STARTS or name in read:
            continue
        for where, value in table.values(name):
            if not _is_zero(value):
                raise UsageError(
                    f"{where}: field {name!r} is {value!r}, but segments of files are not read: "
                    "cut the recordings first, or leave out this column if they are cut already"
                )


def _look(
    tables: Mapping[Path, "Rows"], read: Sequence[str], path: Path, reached: Reached
) -> tuple[list[str], dict[str, list[str]], int]:
    """Return what `describe_unread` tells of the table at `path`: the names of the columns that are
    not read, the values of those that assign rows to splits, and the number of blank rows."""
    table = tables[path]
    unread = [name for name in table.columns if name not in read]
    values = {}
    for name in unread:
        there = _values(table, name) if name.casefold() in _SPLITS else ()
        if 1 < len(there) <= _MOST_VALUES:
            values[name] = sorted(there)
    return unread, values, table.count_blank_rows(reached)


def _values(table: "Rows", column: str) -> set[str]:
    found = set[str]()
    for _, value in table.values(column):
        if value is not None and value != "":
            found.add(" ".join(str(value).split()))
        if len(found) > _MOST_VALUES:
            break
    return found


def _is_zero(value: Any) -> bool:
    """Return whether the start of a recording in its file is 0, such as 00:00:00, or missing."""
    return value is None or str(value).strip(" 0:.") in ("", "nan", "NaN")
