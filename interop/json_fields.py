"""Reads and checks the fields of a JSON file; errors name the file and the field."""

import copy
import json
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UsageError
from interop.pointers import refuse_pointer

_REQUIRED = object()


class JsonFields:
    """Reads and checks the fields of a JSON file.

    If a method gets no `default`, the field is required. Raises `UsageError` if the file is missing
    or damaged, or if a field is missing or has a value that is not allowed.

    left_out: the fields that were left out, by their dotted names.
    """

    def __init__(
        self,
        path: Path,
        values: dict[str, Any] | None = None,
        *,
        leave_out: Collection[str] = (),
    ):
        """Read the fields. values: the fields of the file, if it was read already. leave_out: the
        dotted names of fields that count as missing."""
        self.path, self._section = path, ""
        if values is None:
            refuse_pointer(path)
        try:
            read = json.loads(path.read_text(encoding="utf-8")) if values is None else values
        except FileNotFoundError:
            raise UsageError(f"{path} is missing") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{path} is damaged: {error}") from None
        if not isinstance(read, dict):
            raise UsageError(f"{path} is damaged: it holds no fields")
        self.left_out: dict[str, Any] = {}
        self._values = self._without(read, leave_out, "") if leave_out else read
        self._asked: set[str] = set()
        self._opened = {"": self._values}

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._values.items())

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return the value of a field without checking its type."""
        self._asked.add(self._section + name)
        if name not in self._values and default is _REQUIRED:
            raise UsageError(f"{self.path} is damaged: it has no {self._section}{name}")
        return self._values.get(name, default)

    def positive_int(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return the value of a field. It must be an integer above zero, or the default."""
        value = self.value(name, default)
        if (type(value) is int and value >= 1) or value is default:
            return value
        self._raise_type(name, value, "an integer >= 1")

    def positive_float(self, name: str, default: Any = _REQUIRED) -> float:
        """Return the value of a field. It must be a number above zero."""
        value = self.value(name, default)
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            self._raise_type(name, value, "a number > 0")
        return float(value)

    def boolean(self, name: str, default: Any = _REQUIRED) -> bool:
        """Return the value of a field. It must be true or false."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            self._raise_type(name, value, "true or false")
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return the value of a field. It must be a text, or the default."""
        value = self.value(name, default)
        if isinstance(value, str) or value is default:
            return value
        self._raise_type(name, value, "a text")

    def texts(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return the value of a field. It must be a list of texts, or the default."""
        value = self.value(name, default)
        is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if is_list or value is default:
            return value
        self._raise_type(name, value, "a list of texts")

    def token_id(self, name: str) -> int:
        """Return the value of a field. It must be an integer of at least zero."""
        value = self.value(name)
        if type(value) is not int or value < 0:
            self._raise_type(name, value, "an integer >= 0")
        return value

    def token_ids(self, name: str) -> tuple[int, ...]:
        """Return one integer or a list of them; empty if the field is null or missing."""
        value = self.value(name, None)
        several = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if not all(type(one) is int for one in several):
            self._raise_type(name, value, "an integer, or a list of integers")
        return tuple(several)

    def pair(self, name: str, default: Any = _REQUIRED) -> tuple[int, int]:
        """Return height and width from a field: an integer above zero for both, or two."""
        value = self.value(name, default)
        both = value if isinstance(value, list) else [value, value]
        if len(both) != 2 or not all(type(one) is int and one >= 1 for one in both):
            self._raise_type(name, value, "an integer >= 1, or two")
        return both[0], both[1]

    def positive_ints(self, name: str, default: Any = _REQUIRED) -> tuple[int, ...]:
        """Return the value of a field. It must be a list of integers above zero."""
        value = self.value(name, default)
        is_list = isinstance(value, list | tuple) and value
        if not is_list or not all(type(one) is int and one >= 1 for one in value):
            self._raise_type(name, value, "a list of integers >= 1")
        return tuple(value)

    def section(self, name: str) -> dict[str, Any]:
        """Return the fields of a nested section; empty if it is null or missing."""
        value = self.value(name, None)
        if not isinstance(value, dict | None):
            self._raise_type(name, value, "a section")
        return value or {}

    def nested(self, name: str) -> "JsonFields":
        """Return the fields of a nested section as such; without fields if it is missing."""
        fields = copy.copy(self)
        fields._values, fields._section = self.section(name), f"{self._section}{name}."
        self._opened[fields._section] = fields._values
        return fields

    def pass_over(self, *names: str) -> None:
        """Count fields as read whose values don't matter."""
        self._asked.update(self._section + name for name in names)

    def unread(self) -> Iterator[tuple[str, str, Any]]:
        """Yield the section, the name and the value of each field that nobody asked for: of the
        file, and of the sections in it that `nested` opened. The section ends with a dot."""
        for section, values in self._opened.items():
            for name, value in values.items():
                if section + name not in self._asked:
                    yield section, name, value

    def sections(self, name: str) -> list["JsonFields"]:
        """Return the fields of each section of a list; empty if it is null or missing."""
        value = self.value(name, None)
        several = [] if value is None else value
        if not isinstance(several, list) or not all(isinstance(one, dict) for one in several):
            self._raise_type(name, value, "a list of sections")
        found = []
        for number, values in enumerate(several):
            fields = copy.copy(self)
            fields._values, fields._section = values, f"{self._section}{name}[{number}]."
            found.append(fields)
        return found

    def lookup(self, name: str, table: Mapping[Any, Any], default: Any = _REQUIRED) -> Any:
        """Return the entry of `table` for a field's value. Raises `UsageError` if there is none."""
        value = self.value(name, default)
        if isinstance(value, dict | list) or value not in table:
            self.reject(name, f"it must be {_choices(table)}")
        return table[value]

    def require(self, **allowed: Sequence[Any]) -> None:
        """Raise `UsageError` if a field is present and has none of its `allowed` values."""
        for name, values in allowed.items():
            if self.value(name, values[0]) not in values:
                self.reject(name, f"it must be {_choices(values)}")

    def reject(self, name: str, instead: str) -> NoReturn:
        """Raise `UsageError`, because our models do not support the value of a field.

        instead: a text that says which values they support.
        """
        value = json.dumps(self.value(name, None))
        raise UsageError(f"{self.path}: {self._section}{name}={value} can't be had here: {instead}")

    def _without(
        self, values: dict[str, Any], leave_out: Collection[str], section: str
    ) -> dict[str, Any]:
        """Return a section without the fields `leave_out`, which `left_out` then has."""
        kept = {}
        for name, value in values.items():
            path = section + name
            if path in leave_out:
                self.left_out[path] = value
            else:
                is_section = isinstance(value, dict)
                kept[name] = self._without(value, leave_out, f"{path}.") if is_section else value
        return kept

    def _raise_type(self, name: str, value: Any, expected: str) -> NoReturn:
        raise UsageError(
            f"{self.path} is damaged: {self._section}{name}={json.dumps(value)} is not {expected}"
        )


def _choices(values: Iterable[Any]) -> str:
    return " or ".join(json.dumps(value) for value in values)
