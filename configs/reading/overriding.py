"""Overrides of the command line, applied to the nested values of a recipe or a file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from configs.errors import UsageError
from configs.reading import names
from configs.reading.values import parse_value, quote
from configs.schema.config import Config
from configs.schema.settings import Settings, accepts, kind_name, kinds

FLAG = "--config."
"""How a field is given on the command line: this, its path, `=`, its value."""

Values = dict[str, Any]


def override(values: Values, overrides: Mapping[str, str]) -> None:
    """Puts `overrides` (path to text) into `values`.

    One that changes the kind of a section (`model.architecture=cnn`) comes first, whatever its
    place: the section takes the defaults of its new kind, and keeps what `values` set of the
    fields that both kinds have.

    Raises `UsageError` for a field that is not there, and text that is no value of its type.
    """
    outer_first = sorted(overrides, key=lambda path: path.count("."))
    for path in sorted(outer_first, key=lambda path: not names.is_discriminator(path)):
        place = _find(values, path)
        name, text = path.rpartition(".")[2], overrides[path]
        if name == place.owner.discriminator:
            _change_kind(place, path, text)
            continue
        info = place.owner.model_fields[name]
        try:
            place.values[name] = parse_value(text, info)
        except ValueError:
            raise UsageError(f"{FLAG}{path} must be {accepts(info)}, not {quote(text)}") from None


def kind_of_section(values: Values, path: str) -> type[Settings]:
    """The kind of the section that has the field `path`, such as `data.source`, in `values`."""
    return _find(values, path).owner


@dataclass(frozen=True)
class _Place:
    """A section among nested values."""

    values: Values
    owner: type[Settings]
    declaration: FieldInfo | None


def _find(values: Values, path: str) -> _Place:
    """The section that has the field `path`; raises `UsageError` if none has."""
    place, at = _Place(values, Config, None), ""
    for section in path.split(".")[:-1]:
        info = _declaration(place, f"{at}{section}", path)
        at = f"{at}{section}."
        here = place.values.setdefault(section, info.default.model_dump())
        place = _Place(here, _kind_of(here, info, at), info)
    members = kinds(_declaration(place, path, path))
    if members:
        told = members[0].discriminator or next(iter(members[0].model_fields))
        raise UsageError(
            f"{FLAG}{path} is a section, not a field: did you mean {FLAG}{path}.{told}?"
        )
    return place


def _declaration(place: _Place, part: str, path: str) -> FieldInfo:
    """What the schema says of `part`, the beginning of `path`, in a section of this kind."""
    info = place.owner.model_fields.get(part.rpartition(".")[2])
    if info is not None and (part == path or kinds(info)):
        return info
    if info is None and names.is_field_or_section(path):
        raise UsageError(f"{FLAG}{path}: {names.not_of_this_kind(part, place.owner)}")
    raise UsageError(names.unknown_field(path, FLAG))


def _kind_of(values: Any, info: FieldInfo, at: str) -> type[Settings]:
    """The kind of section that `values` say they are."""
    members = kinds(info)
    told = members[0].discriminator
    if not isinstance(values, dict):
        raise UsageError(f"{at[:-1]} must be a section of fields, not {values!r}")
    if told is None:
        return members[0]
    return _named_kind(members, values.get(told), f"{at}{told}")


def _named_kind(members: tuple[type[Settings], ...], name: Any, path: str) -> type[Settings]:
    for kind in members:
        if kind_name(kind) == name:
            return kind
    choices = ", ".join(kind_name(kind) for kind in members)
    raise UsageError(f"{path} must be one of {choices}, not {name!r}")


def _change_kind(place: _Place, path: str, name: str) -> None:
    """Makes a section one of the kind called `name`, in place."""
    kind = _named_kind(kinds(place.declaration), name, f"{FLAG}{path}")
    if kind is place.owner:
        return
    set_here = {
        field: value
        for field, value in place.values.items()
        if field in kind.model_fields and value != _default(place.owner, field)
    }
    place.values.clear()
    place.values.update(set_here | {kind.discriminator: name})


def _default(owner: type[Settings], name: str) -> Any:
    info = owner.model_fields.get(name)
    default = info.default if info else None
    return default.model_dump() if isinstance(default, Settings) else default
