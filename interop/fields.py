"""Translates a family's config.json to fields of our configuration and back, by one table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from interop.json_fields import JsonFields

REQUIRED: Any = object()
"""In place of a default: the field must be in config.json."""

Settings = Mapping[str, Any]
"""Fields of the section `model` by name, and sizes of the data by "data." and their name."""


class Unsupported(Exception):
    """Raised for settings that a family does not have. Each of the arguments is a text that names
    one and says what the family has."""

    def __str__(self) -> str:
        return "; ".join(self.args)


class Row(Protocol):
    """One or more fields, in both directions."""

    def read(self, config: JsonFields) -> Settings:
        """Return our fields. Raises `UsageError` for a value of config.json that we don't have."""
        ...

    def write(self, ours: Settings) -> Mapping[str, Any]:
        """Return fields of config.json. Raises `Unsupported` for a value that the family does not
        have."""
        ...


@dataclass(frozen=True)
class Int:
    """An integer of at least one. ours, theirs: the names of the field."""

    ours: str
    theirs: str
    default: Any = REQUIRED

    def read(self, config: JsonFields) -> Settings:
        return {self.ours: config.positive_int(self.theirs, **_default(self.default))}

    def write(self, ours: Settings) -> Mapping[str, Any]:
        return {self.theirs: ours[self.ours]}


@dataclass(frozen=True)
class Float:
    """A number above zero. ours, theirs: the names of the field."""

    ours: str
    theirs: str
    default: Any = REQUIRED

    def read(self, config: JsonFields) -> Settings:
        return {self.ours: config.positive_float(self.theirs, **_default(self.default))}

    def write(self, ours: Settings) -> Mapping[str, Any]:
        return {self.theirs: ours[self.ours]}


@dataclass(frozen=True)
class Bool:
    """True or false. ours, theirs: the names of the field."""

    ours: str
    theirs: str
    default: Any = REQUIRED

    def read(self, config: JsonFields) -> Settings:
        return {self.ours: config.boolean(self.theirs, **_default(self.default))}

    def write(self, ours: Settings) -> Mapping[str, Any]:
        return {self.theirs: ours[self.ours]}


@dataclass(frozen=True)
class Choice:
    """One of several words. table: our value for each of theirs; the first of equal ones is
    written. ours, theirs: the names of the field."""

    ours: str
    theirs: str
    table: Mapping[Any, Any]
    default: Any = REQUIRED

    def read(self, config: JsonFields) -> Settings:
        return {self.ours: config.lookup(self.theirs, self.table, **_default(self.default))}

    def write(self, ours: Settings) -> Mapping[str, Any]:
        for theirs, value in self.table.items():
            if value == ours[self.ours]:
                return {self.theirs: theirs}
        raise Unsupported(_mismatch(self.ours, ours[self.ours], self.table.values()))


@dataclass(frozen=True)
class Ours:
    """Fields of ours that have one value in this family, and none in config.json."""

    values: Settings

    def read(self, config: JsonFields) -> Settings:
        return self.values

    def write(self, ours: Settings) -> Mapping[str, Any]:
        reasons = [
            _mismatch(name, ours[name], [value])
            for name, value in self.values.items()
            if ours.get(name, value) != value
        ]
        if reasons:
            raise Unsupported(*reasons)
        return {}


@dataclass(frozen=True)
class Theirs:
    """Fields of config.json that must have one of some values; the first is written, and counts
    where a file lacks the field."""

    values: Mapping[str, Sequence[Any]]

    def read(self, config: JsonFields) -> Settings:
        config.require(**self.values)
        return {}

    def write(self, ours: Settings) -> Mapping[str, Any]:
        return {name: values[0] for name, values in self.values.items()}


@dataclass(frozen=True)
class Custom:
    """Fields with functions of their own, in both directions."""

    read: Callable[[JsonFields], Settings]
    write: Callable[[Settings], Mapping[str, Any]]


@dataclass(frozen=True)
class Section:
    """Rows of a nested section of config.json. constants: fields that are only written."""

    name: str
    constants: Mapping[str, Any]
    rows: Sequence[Row]

    def read(self, config: JsonFields) -> Settings:
        return read_fields(self.rows, config.nested(self.name))

    def write(self, ours: Settings) -> Mapping[str, Any]:
        return {self.name: {**self.constants, **write_fields(self.rows, ours)}}


def read_fields(rows: Sequence[Row], config: JsonFields) -> dict[str, Any]:
    """Return our fields for a config.json. Raises `UsageError` as the rows do."""
    return {name: value for row in rows for name, value in row.read(config).items()}


def write_fields(rows: Sequence[Row], ours: Settings) -> dict[str, Any]:
    """Return config.json for our fields, the inverse of `read_fields`. Fields that are None are
    left out. Raises `Unsupported` with the reasons of all rows."""
    written: dict[str, Any] = {}
    reasons: list[str] = []
    for row in rows:
        try:
            written |= row.write(ours)
        except Unsupported as error:
            reasons += error.args
    if reasons:
        raise Unsupported(*reasons)
    return {name: value for name, value in written.items() if value is not None}


def _default(default: Any) -> dict[str, Any]:
    return {} if default is REQUIRED else {"default": default}


def _mismatch(name: str, value: Any, possible: Any) -> str:
    words = " or ".join(dict.fromkeys(_word(one) for one in possible))
    path = name if "." in name else f"model.{name}"
    return f"{path}={_word(value)}: it only has {words}"


def _word(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
