"""Reads JSON lines, and JSON arrays of objects."""

import io
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from configs.errors import UsageError
from data.sources.opening import lines_of, open_text
from data.sources.rows import Row
from data.sources.tables import Rows, check_fields
from data.sources.values import decode, kind_of, leaves

_DIGITS = 4300  # Python converts no longer number
_BLOCK_CHARACTERS = 2**16


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


_DECODER = json.JSONDecoder(parse_int=_integer)


def loads(text: str) -> Any:
    """Return a JSON value, as `json.loads` does, but also of integers of any number of digits."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer of more digits than Python converts: slower, so not for all
        return _DECODER.decode(text)


class JSONLines(Rows):
    """A file with one JSON object per line; blank lines are skipped."""

    def _read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        for number, line in self._lines():
            where = f"{self.path}, line {number}"
            text = decode(line, self.invalid_utf8, where).removeprefix("\ufeff")
            try:
                record = loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                column = f", column {error.colno}" if isinstance(error, ValueError) else ""
                if text.strip() == "{":
                    column += (
                        f". Every object stands on one line of its own: jq -c . {self.path} > NEW "
                        "writes it so"
                    )
                raise UsageError(f"{where} is no JSON: {_reason(error)}{column}") from None
            yield where, _row(where, record, fields)

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


class JSONArray(Rows):
    """A file that is one JSON array of objects. They are read one after the other, and numbered
    from 0, as several may be on one line."""

    def name_of(self, row: int) -> str:
        """Return the name of row number `row` (from 0): the file and the number."""
        return f"{self.name} row {row}"

    def _read(self, fields: Mapping[str, str]) -> Iterator[Row]:
        for row, (line, record) in enumerate(self._elements()):
            where = f"{self.path}, row {row} on line {line}"
            yield where, _row(where, record, fields)

    @cached_property
    def _totals(self) -> tuple[Sequence[int], int]:
        count = sum(1 for _ in self._elements())
        with open_text(self.path) as file:
            size = sum(map(len, iter(lambda: file.read(_BLOCK_CHARACTERS), b"")))
        return range(count), size

    def _elements(self) -> Iterator[tuple[int, Any]]:
        """Yield each element of the array, and before it the number of its first line.

        No more text is kept than twice the longest element.
        """
        with _Text(self) as text:
            text.skip_space()
            text.take("[")
            text.skip_space()
            while not text.take("]"):
                yield text.line, text.element()
                text.skip_space()
                if not text.take(",") and text.next() != "]":
                    raise UsageError(f"{text.where} is no JSON: Expecting ',' delimiter")
                text.skip_space()
            text.skip_space()
            if text.next():
                raise UsageError(f"{text.where} is no JSON: more follows the end of the array")


class _Text:
    """The text of a JSON file, read in blocks. line: the number of the line, from 1, that is read
    next."""

    def __init__(self, rows: Rows):
        self._rows, self._opened = rows, open_text(rows.path)
        self._rest, self._place, self.line = "", 0, 1

    def __enter__(self) -> "_Text":
        errors = {"error": "strict", "replace": "replace"}[self._rows.invalid_utf8]
        file = self._opened.__enter__()
        self._file = io.TextIOWrapper(file, "utf-8-sig", errors, newline="")
        return self

    def __exit__(self, *exception: Any) -> None:
        self._opened.__exit__(*exception)

    @property
    def where(self) -> str:
        return f"{self._rows.path}, line {self.line}"

    def next(self) -> str:
        """Return the next character; an empty text at the end of the file."""
        return self._rest[self._place : self._place + 1] or (self.next() if self._more() else "")

    def take(self, character: str) -> bool:
        """Skip the next character if it is `character`; return whether it was."""
        found = self.next() == character
        self._place += found
        return found

    def skip_space(self) -> None:
        while self.next() and self.next().isspace():
            self.line += self.next() == "\n"
            self._place += 1

    def element(self) -> Any:
        """Return the JSON value that begins here, and skip it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._rest, self._place)
            except (json.JSONDecodeError, RecursionError) as error:
                if not _may_be_cut(error, self._rest) or not self._more():
                    failed = getattr(error, "pos", self._place)
                    self.line += self._rest.count("\n", self._place, failed)
                    raise UsageError(f"{self.where} is no JSON: {_reason(error)}") from None
            else:
                self.line += self._rest.count("\n", self._place, end)
                self._place = end
                return value

    def _more(self) -> bool:
        """Read another block; return whether there was one."""
        self._rest, self._place = self._rest[self._place :], 0
        try:
            block = self._file.read(max(_BLOCK_CHARACTERS, len(self._rest)))
        except UnicodeDecodeError as error:
            self.line += self._rest.count("\n")
            decode(error.object[error.start :], "error", f"{self.where} or after it")
            return False
        self._rest += block
        return bool(block)


def _may_be_cut(error: Exception, text: str) -> bool:
    """Return whether the JSON value that failed at the end of `text` may be whole if more text
    follows."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos > len(text) - 16


def _reason(error: Exception) -> str:
    """Return in plain words why text is no JSON."""
    if not isinstance(error, json.JSONDecodeError):
        return "nested too deeply"
    return error.msg.removesuffix(" at").removesuffix(" starting")


def _row(where: str, record: Any, fields: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the fields of a record, with those of `fields` that are nested in others."""
    if not isinstance(record, dict):
        raise UsageError(f"{where} holds {kind_of(record)}, not an object with fields")
    missing = [field for field in fields if field not in record and "." in field]
    inside = dict(leaves(record)) if missing else {}
    record |= {field: inside[field] for field in missing if field in inside}
    if any(field not in record for field in fields):
        check_fields(where, fields, [name for name, _ in leaves(record)])
    return record
