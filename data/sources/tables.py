"""Reads tables with named fields: JSON lines, Parquet, CSV and TSV. Errors name the row.

The names of nested fields have dots: `translation.en` in {"translation": {"en": "Hello"}}.
"""

import codecs
import csv
import difflib
import gzip
import json
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import UsageError

Row = tuple[str, Mapping[str, Any]]
"""A row's location (for error messages), and its values by field."""

_LISTED, _LISTED_CHARACTERS = 12, 40  # the most fields listed in errors, and characters of each
_DEEPEST = 8  # levels of nested fields


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
        return len(self._lines_of_rows)

    @property
    def size(self) -> int:
        """The number of bytes of all texts, or a larger estimate."""
        return self._totals[1]

    def name_of(self, row: int) -> str:
        """Return the name of row number `row` (from 0): the file and the line."""
        return f"{self.name}:{self._lines_of_rows[row]}"

    def read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        """Yield each row. fields: the fields that it must have, each with the setting that names
        it. Raises UsageError if a row lacks a field or is damaged."""
        raise NotImplementedError

    def texts(self) -> Iterator[str]:
        """Yield the text in `field` of each row. Raises UsageError if a row has none."""
        for where, row in self.read({self.field: "data.text_field"}):
            yield self.text_of(where, row, self.field)

    def pairs(self, target: str) -> Iterator[tuple[str, str]]:
        """Yield two texts for each row: in `field` and in `target`. null becomes an empty text."""
        fields = {self.field: "data.source_field", target: "data.target_field"}
        for where, row in self.read(fields):
            source, target = (
                "" if row[side] is None else self.text_of(where, row, side) for side in fields
            )
            yield source, target

    def labelled(self, label: str) -> Iterator[tuple[str, str]]:
        """Yield the text in `field` and the label of each row. Labels that are integers or booleans
        become text as in JSON."""
        for where, row in self.read({self.field: "data.text_field", label: "data.label_field"}):
            text = self.text_of(where, row, self.field)
            if not text.strip():
                raise UsageError(f"{where}: field {self.field!r} is empty: every row needs a text")
            yield text, _label(where, label, row[label], self.invalid_utf8)

    def recordings(self, target: str, setting: str) -> Iterator[tuple[str, str, str]]:
        """Yield each row's location, its path in `field`, and its transcript or label in `target`.

        setting: the setting that names `target`: data.text_field for a transcript, data.label_field
        for a label.
        """
        for where, row in self.read({self.field: "data.path_field", target: setting}):
            path = self.text_of(where, row, self.field)
            if not path.strip():
                raise UsageError(f"{where}: field {self.field!r} is empty: every row needs a path")
            if setting == "data.label_field":
                yield where, path, _label(where, target, row[target], self.invalid_utf8)
            else:
                yield where, path, self.text_of(where, row, target)

    def text_of(self, where: str, row: Mapping[str, Any], field: str) -> str:
        """Return the text in `field` of `row`; the field must exist. Raises UsageError if its value
        is not text."""
        text = row[field]
        if isinstance(text, bytes):
            return decode(text, self.invalid_utf8, where)
        if not isinstance(text, str):
            texts = [name for name, value in _leaves(row) if isinstance(value, str | bytes)]
            raise no_text(where, field, kind_of(text), texts)
        return whole_text(text, self.invalid_utf8, where, field)

    @property
    def _lines_of_rows(self) -> Sequence[int]:
        return self._totals[0]

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        """The line number of each row (in Parquet the row number), and `size`."""
        raise NotImplementedError


def open_rows(path: Path, name: str, field: str, invalid_utf8: str) -> Rows:
    """Return the rows of a file. The suffix of its path determines the format.

    name, field: as in `Rows`.
    invalid_utf8: `data.invalid_utf8`.
    """
    kinds = {".jsonl": JSONLines, ".parquet": Parquet, ".csv": CSV, ".tsv": CSV}
    suffix = Path(path.name.removesuffix(".gz")).suffix
    return kinds[suffix](path, name, field, invalid_utf8)


class JSONLines(Rows):
    """A file with one JSON object per line; blank lines are skipped. Files named .gz are
    compressed."""

    def read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        for number, line in self._lines():
            where = f"{self.path}, line {number}"
            try:
                record = json.loads(decode(line, self.invalid_utf8, where).removeprefix("\ufeff"))
            except json.JSONDecodeError as error:
                what = error.msg.removesuffix(" at").removesuffix(" starting")
                raise UsageError(f"{where} is no JSON: {what}, column {error.colno}") from None
            except RecursionError:
                raise UsageError(f"{where} is no JSON: nested too deeply") from None
            if not isinstance(record, dict):
                raise UsageError(f"{where} holds {kind_of(record)}, not an object with fields")
            record |= _inside(record, fields)
            if any(field not in record for field in fields):
                _check_fields(where, fields, [name for name, _ in _leaves(record)])
            yield where, record

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        lines, size = array("q"), 0
        for number, line in self._lines():
            lines.append(number)
            size += len(line)
        return lines, size

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        lines = ((number, line.rstrip(b"\r\n")) for number, line in lines_of(self.path))
        return ((number, line) for number, line in lines if line and not line.isspace())


class CSV(Rows):
    """A file of comma-separated values, whose first row names the fields.

    In a .tsv, tabs separate the values, and quotation marks have no special meaning, as is usual in
    text data sets. Files named .gz are compressed; blank lines are skipped.
    """

    def read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        names: list[str] | None = None
        for number, values in self._rows():
            where = f"{self.path}, line {number}"
            if names is None:
                names = [value.strip() for value in values]
                self._check_names(where, fields, names)
            elif len(values) != len(names):
                raise self._other_count(where, len(values), len(names))
            else:
                yield where, dict(zip(names, values, strict=True))

    def _other_count(self, where: str, count: int, names: int) -> UsageError:
        hint = ""
        if count > names:
            hint = ": a text with a comma in it stands in quotation marks"
            if self._is_tsv:
                hint = ": no text can have a tab in it"
        fields = f"{count} field{'' if count == 1 else 's'}"
        return UsageError(f"{where} has {fields}, and line 1 {names}{hint}")

    def _check_names(self, where: str, fields: Mapping[str, str], names: list[str]) -> None:
        if len(names) == 1 and ";" in names[0]:
            raise UsageError(
                f"{where}: {names[0]!r} is one field, not {names[0].count(';') + 1}: separate "
                "them by commas, or by tabs in a .tsv"
            )
        if twice := next((name for name in fields if names.count(name) > 1), None):
            raise UsageError(f"{where} has the field {twice!r} {names.count(twice)} times: rename")
        _check_fields(f"{where}, which names the columns,", fields, names)

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        lines, characters = array("q"), 0
        for number, values in self._rows():
            lines.append(number)
            characters += sum(map(len, values))
        return lines[1:], 4 * characters  # UTF-8 has at most four bytes per character

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row, and before it the number of its first line."""
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(
            (self._decoded(number, line) for number, line in lines_of(self.path)),
            delimiter="\t" if self._is_tsv else ",",
            quoting=csv.QUOTE_NONE if self._is_tsv else csv.QUOTE_MINIMAL,
            strict=True,
        )
        first = 1
        try:
            for values in reader:
                if values:
                    yield first, values
                first = reader.line_num + 1
        except csv.Error as error:
            what = str(error)
            if what == "unexpected end of data":
                what = "a quotation mark that opens there is never closed"
            raise UsageError(f"{self.path}, line {first} is no row: {what}") from None

    @property
    def _is_tsv(self) -> bool:
        return self.path.name.removesuffix(".gz").endswith(".tsv")

    def _decoded(self, number: int, line: bytes) -> str:
        text = decode(line, self.invalid_utf8, f"{self.path}, line {number}")
        return text.removeprefix("\ufeff") if number == 1 else text


class Parquet(Rows):
    """A Parquet file. Only the needed columns are read, a few rows at a time.

    As the file has no lines, its rows are numbered, from 0.
    """

    def name_of(self, row: int) -> str:
        """Return the name of row number `row` (from 0): the file and the number."""
        return f"{self.name} row {row}"

    def read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        import pyarrow

        file, row = self._open(), 0
        kinds, named = dict(_columns(file.schema_arrow)), [*fields]
        texts = [name for name, kind in kinds.items() if _is_text(kind)]
        _check_fields(str(self.path), fields, kinds)
        if self.field not in texts:
            raise no_text(str(self.path), self.field, str(kinds[self.field]), texts)
        try:
            for batch in file.iter_batches(batch_size=1024, columns=named):
                columns = [_column(batch, name) for name in named]
                columns = [
                    column.cast(pyarrow.string()).cast(pyarrow.binary())
                    if name in texts
                    else column
                    for name, column in zip(named, columns, strict=True)
                ]
                for values in zip(*(column.to_pylist() for column in columns), strict=True):
                    yield f"{self.path}, row {row}", dict(zip(named, values, strict=True))
                    row += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(f"{self.path} is damaged after row {row}: {_line(error)}") from None

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        metadata = self._open().metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        columns = [group.column(n) for group in groups for n in range(group.num_columns)]
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == self.field)
        return range(metadata.num_rows), size

    def _open(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except (OSError, pyarrow.ArrowException) as error:
            raise UsageError(f"{self.path} is no whole Parquet file: {_line(error)}") from None


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the number (from 1) and the bytes of each line of a file, decompressed if named .gz.

    Raises UsageError if the file is damaged or can't be read.
    """
    number = 0
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is damaged after line {number}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None


def _leaves(record: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of a record and its value; objects are replaced by their nested fields."""
    for name, value in record.items():
        if isinstance(value, dict) and value and outer.count(".") < _DEEPEST:
            yield from _leaves(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def _inside(record: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """Return the values of the nested `fields` of a record."""
    missing = [field for field in fields if field not in record and "." in field]
    leaves = dict(_leaves(record)) if missing else {}
    return {field: leaves[field] for field in missing if field in leaves}


def _columns(schema: Iterable[Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each column of a Parquet file and its type; structs are replaced by their nested
    columns."""
    from pyarrow import types

    for field in schema:
        if types.is_struct(field.type):
            yield from _columns(field.type, f"{outer}{field.name}.")
        else:
            yield f"{outer}{field.name}", field.type


def _column(batch: Any, name: str) -> Any:
    """Return the values of a column, which may be nested in a struct."""
    import pyarrow.compute

    if name in batch.schema.names:
        return batch.column(name)
    outer, *inner = name.split(".")
    return pyarrow.compute.struct_field(batch.column(outer), inner)


def _check_fields(where: str, fields: Mapping[str, str], there: Iterable[str]) -> None:
    for field, setting in fields.items():
        if field not in there:
            raise no_such_field(where, field, there, setting, taken=fields)


def no_such_field(
    where: str,
    field: str,
    there: Iterable[str],
    setting: str = "data.text_field",
    taken: Iterable[str] = (),
) -> UsageError:
    """Return the error for a record that lacks the field named by `setting`.

    there: the fields that the record has.
    taken: fields already in use, which are not suggested.
    """
    there = [*there]
    free = [name for name in there if name not in taken]
    near = [name for name in free if name.endswith(f".{field}")]
    near += difflib.get_close_matches(field, free, n=1, cutoff=0.5)
    near += [name for name in free if len(field) > 3 and field in name]
    hint = f"did you mean {setting}={near[0]}?" if near else f"set {setting}"
    listed = [
        name if len(name) <= _LISTED_CHARACTERS else f"{name[:_LISTED_CHARACTERS]}..."
        for name in there[:_LISTED]
    ]
    if len(there) > _LISTED:
        listed.append(f"{len(there) - _LISTED} more")
    return UsageError(f"{where} has no field {field!r}, but {', '.join(listed) or 'none'}: {hint}")


def no_text(where: str, field: str, kind: str, texts: Iterable[str]) -> UsageError:
    """Return the error for a field that does not contain text.

    where: the location of the row.
    kind: the type of the field's value.
    texts: the names of the fields that contain text.
    """
    others = f": text is in {', '.join(texts)}" if texts and kind != "null" else ""
    return UsageError(f"{where}: field {field!r} holds {kind}, not text{others}")


def decode(content: bytes, invalid_utf8: str, where: str) -> str:
    """Decode UTF-8 text.

    where: its location, for errors.
    invalid_utf8: `data.invalid_utf8`.
    """
    try:
        return content.decode("utf-8", {"error": "strict", "replace": "replace"}[invalid_utf8])
    except UnicodeDecodeError as error:
        what = f"{where} is not UTF-8 text: byte 0x{content[error.start]:02x}"
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UsageError(f"{what}. Convert the file, from UTF-16") from None
        raise UsageError(f"{what}. Convert the file, or set data.invalid_utf8=replace") from None


def whole_text(text: str, invalid_utf8: str, where: str, field: str) -> str:
    """Return `text` without unpaired surrogates, which JSON allows.

    invalid_utf8: "error" to raise UsageError for an unpaired surrogate, or "replace" to replace it
        by U+FFFD.
    where, field: its location, for the error.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if invalid_utf8 == "error":
            half = ascii(text[error.start])[1:-1]
            raise UsageError(
                f"{where}: field {field!r} spells half a character, {half}: mend it, or set "
                "data.invalid_utf8=replace"
            ) from None
        return decode(text.encode("utf-8", "surrogatepass"), invalid_utf8, where)
    return text


def _label(where: str, field: str, value: Any, invalid_utf8: str) -> str:
    """Return a label as text. Raises UsageError if it is empty or of another type."""
    if isinstance(value, bytes):
        value = decode(value, invalid_utf8, where)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str):
        raise UsageError(
            f"{where}: field {field!r} holds {kind_of(value)}, not a label: text, an integer, or "
            "true or false"
        )
    if not value.strip():
        raise UsageError(f"{where}: field {field!r} is empty: every row needs a label")
    return whole_text(value, invalid_utf8, where, field).strip()


def kind_of(value: Any) -> str:
    """Return the JSON name of a value's type."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
