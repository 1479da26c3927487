"""A JSON file of a folder, whose fields are read one by one: what is missing, damaged or beyond our
models is an error that names file and field."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from configs.errors import UsageError

_REQUIRED = object()


class JsonFields:
    """The fields of a JSON file. `default` is what a reader of theirs takes where a field is not
    there; without it the field is needed. Raises `UsageError`, here and in every method.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"{path} is missing") from None
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is damaged: {error}") from None
        if not isinstance(self._values, dict):
            raise UsageError(f"{path} is damaged: it holds no fields")

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._values.items())

    def value(self, name: str, default: Any = _REQUIRED) -> Any:
        """A field, whatever it is."""
        if name not in self._values and default is _REQUIRED:
            raise UsageError(f"{self.path} is damaged: it has no {name}")
        return self._values.get(name, default)

    def count(self, name: str, default: Any = _REQUIRED) -> Any:
        """An integer above zero, or what may be left out."""
        value = self.value(name, default)
        if (type(value) is int and value >= 1) or value is default:
            return value
        self._refuse_type(name, value, "an integer >= 1")

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A number above zero."""
        value = self.value(name, default)
        if type(value) not in (int, float) or not value > 0:
            self._refuse_type(name, value, "a number > 0")
        return float(value)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        value = self.value(name, default)
        if not isinstance(value, bool):
            self._refuse_type(name, value, "true or false")
        return value

    def pair(self, name: str, default: Any = _REQUIRED) -> tuple[int, int]:
        """Height and width: an integer above zero for both, or two."""
        value = self.value(name, default)
        both = value if isinstance(value, list) else [value, value]
        if len(both) != 2 or not all(type(one) is int and one >= 1 for one in both):
            self._refuse_type(name, value, "an integer >= 1, or two")
        return both[0], both[1]

    def section(self, name: str) -> dict[str, Any]:
        """Fields inside a field; none where it is null or not there."""
        value = self.value(name, None)
        if not isinstance(value, dict | None):
            self._refuse_type(name, value, "a section")
        return value or {}

    def translated(self, name: str, table: Mapping[Any, Any], default: Any = _REQUIRED) -> Any:
        """What `table` makes of a field; an error for what is not in it: our models have nothing
        like it."""
        value = self.value(name, default)
        if isinstance(value, dict | list) or value not in table:
            self.refuse(name, f"it must be {_choices(table)}")
        return table[value]

    def demand(self, **allowed: Sequence[Any]) -> None:
        """An error where a field is there and has none of these values."""
        for name, values in allowed.items():
            if self.value(name, values[0]) not in values:
                self.refuse(name, f"it must be {_choices(values)}")

    def refuse(self, name: str, instead: str) -> NoReturn:
        """The error for a field of which our models have nothing like it."""
        value = json.dumps(self.value(name, None))
        raise UsageError(f"{self.path}: {name}={value} can't be had here: {instead}")

    def _refuse_type(self, name: str, value: Any, expected: str) -> NoReturn:
        said = json.dumps(value)
        raise UsageError(f"{self.path} is damaged: {name}={said} is not {expected}")


def _choices(values: Any) -> str:
    return " or ".join(json.dumps(value) for value in values)
