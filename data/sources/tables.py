"""Reads tables with named fields: JSON lines, Parquet, CSV and TSV. Errors name the row.

The names of nested fields have dots: `translation.en` in {"translation": {"en": "Hello"}}.
"""

import codecs
import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.errors import UsageError, blaming
from data.sources.opening import open_text, without_compression

Row = tuple[str, Mapping[str, Any]]
"""A row's location (for error messages), and its values by field."""

_LISTED, _LISTED_CHARACTERS = 12, 40  # the most fields listed in errors, and characters of each
_DEEPEST = 8  # levels of nested fields
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

    @property
    def blank_rows(self) -> int:
        """The number of rows that have separators and no value, which are left out."""
        return 0

    def values(self, column: str) -> Iterator[tuple[str, Any]]:
        """Yield each row's location, and its value in `column`; None if it has none."""
        return ((where, row.get(column)) for where, row in self.read({}))

    def read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        """Yield each row. fields: the fields that it must have, each with the setting that names
        it. Raises UsageError if a row lacks a field or can't be read."""
        with blaming(str(self.path)):
            yield from self._read(fields)

    def _read(self, fields: Mapping[str, str]) -> Iterator[Row]:
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
        become text as in JSON, and 1.0 is the integer 1."""
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
        if text is None:
            told = no_text(where, field, "null", ())
            raise UsageError(f"{told}: give it a text, or leave it out")
        if not isinstance(text, str):
            texts = [name for name, value in leaves(row) if isinstance(value, str | bytes)]
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
    """Return the rows of a file. The suffix of its path, before one of `opening.COMPRESSED`,
    determines the format; JSON that begins with a bracket is an array.

    name, field: as in `Rows`.
    invalid_utf8: `data.invalid_utf8`.

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
    return kinds[suffix](path, name, field, invalid_utf8)


def leaves(record: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of a record and its value; objects are replaced by their nested fields."""
    for name, value in record.items():
        if isinstance(value, dict) and value and outer.count(".") < _DEEPEST:
            yield from leaves(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def check_fields(
    where: str, fields: Mapping[str, str], there: Iterable[str], otherwise: str = ""
) -> None:
    """Raise UsageError if one of `fields` is not `there`. The parameters are those of
    `Rows.read` and `no_such_field`."""
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
    free = [name for name in there if name not in taken and len(name) <= _LISTED_CHARACTERS]
    near = [name for name in free if name.endswith(f".{field}")]
    for one in field.split(";"):
        near += difflib.get_close_matches(one, free, n=1, cutoff=0.5)
        near += [name for name in free if len(one) > 3 and one in name]
    hint = f"did you mean {setting}={near[0]}?" if near else f"set {setting}{otherwise}"
    return UsageError(f"{where} has no field {field!r}, but {listed_names(there)}: {hint}")


def listed_names(names: Iterable[str]) -> str:
    """Return names for a message, without most of those that are long or many."""
    names = [" ".join(name.split()) or repr(name) for name in names]
    listed = [
        name if len(name) <= _LISTED_CHARACTERS else f"{name[:_LISTED_CHARACTERS]}..."
        for name in names[:_LISTED]
    ]
    if len(names) > _LISTED:
        listed.append(f"{len(names) - _LISTED} more")
    return ", ".join(listed) or "none"


def no_text(where: str, field: str, kind: str, texts: Iterable[str]) -> UsageError:
    """Return the error for a field that does not contain text.

    where: the location of the row.
    kind: the type of the field's value.
    texts: the names of the fields that contain text.
    """
    texts = [*texts]
    others = f": text is in {listed_names(texts)}" if texts and kind != "null" else ""
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
        value = decode(value, invalid_utf8, f"{where}: field {field!r}")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or _is_whole(value):
        return str(int(value))
    if isinstance(value, float) and value != value:
        raise UsageError(f"{where}: field {field!r} is missing (NaN): every row needs a label")
    if not isinstance(value, str):
        what = "every row needs one" if value is None else "write it as one of these"
        raise UsageError(
            f"{where}: field {field!r} holds {kind_of(value)}, not a label, which is text, an "
            f"integer, or true or false: {what}"
        )
    if not value.strip():
        raise UsageError(f"{where}: field {field!r} is empty: every row needs a label")
    return whole_text(value, invalid_utf8, where, field).strip()


def _is_whole(value: Any) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, float) and value.is_integer()


def kind_of(value: Any) -> str:
    """Return the name of a value's type: that of JSON, or of Python for other types, such as
    dates."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}  # fmt: skip
    return names.get(type(value), f"a {type(value).__name__.lower()}")
