"""Reads CSV and TSV."""

import csv
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from configs.errors import UsageError
from data.progress import Reached
from data.sources.opening import lines_of
from data.sources.rows import Row
from data.sources.suffixes import without_compression
from data.sources.tables import Rows, check_fields
from data.sources.values import decode

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_SAID = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # the first line of files for Excel


class CSV(Rows):
    """A file of comma-separated values, whose first row names the fields.

    In a .tsv, tabs separate the values, and quotation marks have no special meaning, as is usual in
    text data sets. If the first line says otherwise (`sep=;`), or names several columns only
    with another separator, that one is used, with a warning. Blank lines are skipped, and rows of
    separators alone too.
    """

    @property
    def warnings(self) -> tuple[str, ...]:
        if self._separator == self._usual:
            return ()
        name = _SEPARATORS.get(self._separator, repr(self._separator))
        return (f"{self.path} is read with {name} between the fields, as in its first line",)

    @property
    def columns(self) -> Sequence[str]:
        """The names of the columns."""
        _, names = next(self._rows(), (0, []))
        return [name.strip() for name in names]

    def count_blank_rows(self, reached: Reached) -> int:
        """Return the number of rows that have separators and no value, which are left out."""
        nothing = f' \t\r\n"{self._separator}'.encode()
        lines = (line for _, line in lines_of(self.path, reached))
        if not any(line.strip(b"\r\n") and not line.strip(nothing) for line in lines):
            return 0  # much quicker than to read all rows
        return sum(not any(map(str.strip, values)) for _, values in self._every_row())

    def _read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        names, head = list[str](), 0
        for number, values in self._rows():
            where = f"{self.path}, line {number}"
            if not names:
                names, head = [value.strip() for value in values], number
                self._check_names(where, fields, names)
            elif len(values) != len(names):
                raise self._other_count(where, len(values), len(names), head)
            else:
                yield where, dict(zip(names, values, strict=True))

    def _other_count(self, where: str, count: int, names: int, head: int) -> UsageError:
        hint = ""
        if count > names:
            hint = ": no text can have a tab in it"
            if self._quotes:
                name = {",": "a comma", ";": "a semicolon"}.get(self._separator, "a separator")
                hint = f": a text with {name} in it stands in quotation marks"
        fields = f"{count} field{'' if count == 1 else 's'}"
        return UsageError(f"{where} has {fields}, and line {head} {names}{hint}")

    def _check_names(self, where: str, fields: Mapping[str, str], names: list[str]) -> None:
        if twice := next((name for name in fields or names if names.count(name) > 1), None):
            raise UsageError(f"{where} has the field {twice!r} {names.count(twice)} times: rename")
        otherwise = ""
        if not any(field in names for field in fields):
            more = (f"column{number}" for number in range(len(fields) + 1, len(names) + 1))
            line = self._separator.join([*fields, *more])
            otherwise = (
                ", or, if this line is a row already, put a line before it that names the columns, "
                f"such as {line}"
            )
        check_fields(f"{where}, which names the columns,", fields, names, otherwise)

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        lines, characters = array("q"), 0
        for number, values in self._rows():
            lines.append(number)
            characters += sum(map(len, values))
        return lines[1:], 4 * characters  # UTF-8 has at most four bytes per character

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that has a value, and before it the number of its first line."""
        return (row for row in self._every_row() if any(map(str.strip, row[1])))

    def _every_row(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is no blank line, and before it the number of its first line."""
        number, head = self._first_line
        start = number + 1 if _SAID.fullmatch(head) else number  # where the names are
        lines = (
            self._decoded(number, line) for number, line in lines_of(self.path) if number >= start
        )
        if not self._quotes:
            for number, line in enumerate(lines, start):
                if values := line.rstrip("\r\n"):
                    yield number, values.split(self._separator)
            return
        reader, first = _reader(lines, self._separator, strict=True), start
        try:
            for values in reader:
                if values:
                    yield first, values
                first = start + reader.line_num
        except csv.Error as error:
            raise UsageError(f"{self.path}, line {first} is no row: {_reason(error)}") from None

    @property
    def _usual(self) -> str:
        return "\t" if without_compression(self.path.name).endswith(".tsv") else ","

    @property
    def _quotes(self) -> bool:
        return not self._separator == self._usual == "\t"

    @cached_property
    def _separator(self) -> str:
        """The character between two fields."""
        _, line = self._first_line
        if said := _SAID.fullmatch(line):
            return said[1]
        if self._usual == "\t" and "\t" in line:
            return "\t"
        line = line.replace("\r", "")
        counts = {
            separator: len(next(_reader([line], separator, strict=False), ()))
            for separator in (self._usual, *_SEPARATORS)
        }
        if counts[self._usual] > 1:
            return self._usual
        return max(counts, key=lambda separator: counts[separator])

    @cached_property
    def _first_line(self) -> tuple[int, str]:
        """The first line that is not blank, and before it its number."""
        lines = ((number, self._decoded(number, line)) for number, line in lines_of(self.path))
        return next(((number, line) for number, line in lines if line.strip()), (1, ""))

    def _decoded(self, number: int, line: bytes) -> str:
        text = decode(line, self.invalid_utf8, f"{self.path}, line {number}")
        return text.removeprefix("\ufeff") if number == 1 else text


def _reader(lines: Iterable[str], separator: str, *, strict: bool) -> Any:
    csv.field_size_limit(2**31 - 1)
    return csv.reader(lines, delimiter=separator, strict=strict)


def _reason(error: csv.Error) -> str:
    """Return in plain words why a row can't be read."""
    what = str(error)
    if what == "unexpected end of data":
        return "a quotation mark that opens there is never closed"
    if "new-line character" in what:
        return ("a carriage return (CR) is inside a field: put the field in quotation marks, or "
                "delete the carriage return")  # fmt: skip
    if "expected after" in what:
        return f'{what}: inside of quotation marks, write "" for one'
    return what
