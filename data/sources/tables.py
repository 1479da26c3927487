"""The user's tables with named fields: JSON lines, Parquet, CSV and TSV. Errors name the row.

The names of nested fields have dots: `translation.en` in {"translation": {"en": "Hello"}}.
"""

import codecs
import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import UsageError, blaming
from data.file_stat_cache import FileStatCache
from data.progress import Progress, Reached
from data.sources.columns import describe_unread
from data.sources.files import file_sha256, find_files, is_hidden, name_below
from data.sources.opening import open_text
from data.sources.rows import Opened, Row, View, Wanted
from data.sources.splits import Layout
from data.sources.suffixes import COMPRESSED, compressible, without_compression
from data.sources.values import leaves, listed_names

JSON_LINES = compressible(".jsonl")
SUFFIXES = (*JSON_LINES, ".parquet")
TABLE_SUFFIXES = (*compressible(".csv", ".tsv"), *SUFFIXES)
JSON_SUFFIXES = compressible(".json")
"""Suffixes of tables that are read if given as the path; in a folder they may be of any kind."""

_LONGEST_SUGGESTED = 40  # characters of a field's name
_FIRST_ROWS = 20  # whose fields are the columns, where a file does not name them


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    name: the file's path relative to the folder of the data.
    field: the field with the text; in a table of recordings, the field with the path of each audio
        file.
    """

    path: Path
    name: str
    field: str
    invalid_utf8: str

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._lines_of_rows)

    @property
    def size(self) -> int:
        """The number of bytes of all texts, or a larger estimate."""
        return self._totals[1]

    def name_of(self, row: int) -> str:
        """Return the name of row number `row` (from 0): the file and the line."""
        return f"{self.name}:{self._lines_of_rows[row]}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Messages for the user about how the file is read."""
        return ()

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns; in JSON the fields of the first rows."""
        first = itertools.islice(self.read({}), _FIRST_ROWS)
        return [*dict.fromkeys(name for _, row in first for name, _ in leaves(row))]

    def count_blank_rows(self, reached: Reached) -> int:
        """Return the number of rows that have separators and no value, which are left out.

        reached: called with the number of bytes of the file that are read so far.
        """
        return 0

    def values(self, column: str) -> Iterator[tuple[str, Any]]:
        """Yield each row's location, and its value in `column`; None if it has none."""
        return ((where, row.get(column)) for where, row in self.read({}))

    def read(self, fields: Mapping[str, str], wanted: Wanted = None) -> Iterator[Row]:
        """Yield the wanted rows, as `rows.Table` does."""
        with blaming(str(self.path)):
            rows = self._read(fields)
            yield from rows if wanted is None else itertools.compress(rows, wanted)

    def _read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        raise NotImplementedError

    @property
    def _lines_of_rows(self) -> Sequence[int]:
        return self._totals[0]

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        """The line number of each row (in Parquet the row number), and `size`."""
        raise NotImplementedError


def open_tables(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the tables at `data.path`, as rows for `view`.

    The first row of each file is read, so that wrong field names fail at once. Raises UsageError,
    for instance if a split has no rows.
    """
    layout, root = find_tables(settings, view)
    tables, hashes = dict[str, list[Rows]](), {}
    for split, paths in layout.splits.items():
        tables[split] = [open_rows(path, name_below(root, path), view) for path in paths]
        with FileStatCache(settings, "records", str(root.absolute()), split) as file_stat_cache:
            found = file_stat_cache.of_all(paths, file_sha256, progress, f"opening {split}")
        named = zip(tables[split], found, strict=True)
        hashes[split] = [[table.name, sha256] for table, sha256 in named]
        if not [table for table in tables[split] if view.check(table)]:
            raise UsageError(f"{settings.path} holds no record for {split}")
    told = [*describe_unread(tables, view.fields, settings, progress)] if view.fields else []
    told += [line for of in tables.values() for table in of for line in table.warnings]
    return Opened(tables, {"files": hashes}, layout=layout, warnings=tuple(told))


def open_rows(path: Path, name: str, view: View) -> Rows:
    """Return the rows of a file. The suffix of its path, before one of `suffixes.COMPRESSED`,
    determines the format; JSON that begins with a bracket is an array.

    name: as in `Rows`.

    Raises UsageError if JSON can't be read.
    """
    from data.sources.csv_rows import CSV  # the formats import this module
    from data.sources.json_rows import JSONArray, JSONLines
    from data.sources.parquet_rows import Parquet

    kinds: dict[str, type[Rows]] = {".parquet": Parquet, ".csv": CSV, ".tsv": CSV}
    suffix = Path(without_compression(path.name)).suffix
    if suffix in (".jsonl", ".json"):
        with open_text(path) as file:
            is_array = file.peek().removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
        kinds[suffix] = JSONArray if is_array else JSONLines
    return kinds[suffix](path, name, next(iter(view.fields), ""), view.invalid_utf8)


def find_tables(settings: Any, view: View, *, is_flat: bool = False) -> tuple[Layout[Path], Path]:
    """Return the tables of each split at `data.path`, as `files.find_files` does: those with
    `view.suffixes`; other tables, if the path ends like one, or if a folder has none of the former.

    is_flat: look inside of the folders of a folder only if it holds no table itself.

    Raises UsageError if there is no table.
    """
    folder = Path(settings.path).expanduser()

    def find(suffixes: tuple[str, ...]) -> tuple[Layout[Path], Path]:
        beside = folder.iterdir() if is_flat and folder.is_dir() else ()
        there = [one for one in beside if one.name.endswith(suffixes) and one.is_file()]
        inner = not any(not is_hidden(one.name) for one in there)
        return find_files(
            settings,
            lambda path: path.name.endswith(suffixes) and (inner or path.parent == folder),
        )

    is_table = settings.path.endswith(TABLE_SUFFIXES) or not view.suffixes
    layout, root = find(TABLE_SUFFIXES if is_table else view.suffixes)
    if not layout.splits["train"]:
        layout, root = find(TABLE_SUFFIXES)
    paths = layout.splits["train"]
    if not paths or not paths[0].name.endswith((*TABLE_SUFFIXES, *JSON_SUFFIXES)):
        what = f"{settings.path} holds no table" if not paths else paths[0]
        raise UsageError(f"{what}: {view.things} are {view.place} {listed(TABLE_SUFFIXES)}")
    return layout, root


def listed(suffixes: Sequence[str]) -> str:
    """Return the suffixes of files for a message, without all those of compressed files."""
    plain = [suffix for suffix in suffixes if not suffix.endswith(COMPRESSED)]
    return f"{', '.join(plain)} (text also with {', '.join(COMPRESSED)})"


def check_fields(
    where: str, fields: Mapping[str, str], there: Iterable[str], otherwise: str = ""
) -> None:
    """Raise UsageError if one of `fields` is not `there`. The parameters are those of
    `rows.Table.read` and `no_such_field`."""
    there = [*there]
    for field, setting in fields.items():
        if field not in there:
            raise no_such_field(where, field, there, setting, fields, otherwise)


def no_such_field(
    where: str,
    field: str,
    there: Iterable[str],
    setting: str = "data.text_field",
    taken: Iterable[str] = (),
    otherwise: str = "",
) -> UsageError:
    """Return the error for a record that lacks the field named by `setting`.

    there: the fields that the record has.
    taken: fields already in use, which are not suggested.
    otherwise: what else the user may do, if no field has a similar name.
    """
    there = [*there]
    near = similar_fields(field, there, taken)
    hint = f"did you mean {setting}={near[0]}?" if near else f"set {setting}{otherwise}"
    return UsageError(f"{where} has no field {field!r}, but {listed_names(there)}: {hint}")


def similar_fields(field: str, there: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return those fields, the likeliest first, that may be meant by a name that is not `there`;
    the parameters are those of `no_such_field`."""
    taken = {*taken}
    free = [name for name in there if name not in taken and len(name) <= _LONGEST_SUGGESTED]
    near = [name for name in free if name.endswith(f".{field}")]
    for one in field.split(";"):
        near += difflib.get_close_matches(one, free, n=1, cutoff=0.5)
        near += [name for name in free if len(one) > 3 and one in name]
    return near


def refuse_known_names(
    where: str,
    fields: Mapping[str, str],
    there: Iterable[str],
    known: Mapping[str, Sequence[str]],
) -> None:
    """Raise UsageError if some of `fields` are missing, and for each of these a field is there that
    has its name in well-known data sets.

    where: the location of a row or a table.
    fields: the fields that it must have, each with the setting that names it.
    there: the fields that it has.
    known: names of fields in well-known data sets, by the setting.
    """
    there = [*there]
    missing = {field: setting for field, setting in fields.items() if field not in there}
    free = [name for name in there if name not in fields]
    meant = {
        setting: next((name for name in known.get(setting, ()) if name in free), None)
        for setting in missing.values()
    }
    if missing and all(meant.values()):
        hint = " and ".join(f"{setting}={name}" for setting, name in meant.items())
        raise UsageError(
            f"{where} has no field {' and no field '.join(map(repr, missing))}, but "
            f"{listed_names(there)}: did you mean {hint}?"
        )
