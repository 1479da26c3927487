"""Applies overrides from the command line to the values of a recipe or a `config.json`."""

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
"""The prefix of a field on the command line: `--config.model.width=128`."""

Values = dict[str, Any]


def override(values: Values, overrides: Mapping[str, str]) -> None:
    """Apply `overrides` (path to text) to `values` (nested dictionaries), in place.

    Overrides that change the kind of a section (`model.architecture=cnn`) are applied first. The
    section then has the defaults of the new kind, except that values which differ from the old
    kind's defaults are kept if the new kind has these fields too.

    Raises `UsageError` if a field does not exist, or a text can't be converted to the field's type.
    """
    outer_first = sorted(overrides, key=lambda path: path.count("."))
    for path in sorted(outer_first, key=lambda path: not names.is_discriminator(path)):
        section = _find_section(values, path)
        name, text = path.rpartition(".")[2], overrides[path]
        if name == section.kind.discriminator:
            _change_kind(section, path, text)
            continue
        info = section.kind.model_fields[name]
        try:
            section.values[name] = parse_value(text, info)
        except ValueError:
            raise UsageError(f"{FLAG}{path} must be {accepts(info)}, not {quote(text)}") from None


def kind_of_section(values: Values, path: str) -> type[Settings]:
    """Return the class of the section in `values` that contains the field `path`.

    For `data.source`, this is the class of the section `data`. A missing section is added to
    `values`, with its defaults.
    """
    return _find_section(values, path).kind


@dataclass(frozen=True)
class _Section:
    """A section: its values, its current kind (a class), and all kinds that it may have."""

    values: Values
    kind: type[Settings]
    kinds: tuple[type[Settings], ...]


def _find_section(values: Values, path: str) -> _Section:
    """Return the section that contains the field `path`. A missing section is added to `values`.

    Raises `UsageError` if no section has the field, or `path` is itself a section.
    """
    section, prefix = _Section(values, Config, (Config,)), ""
    for name in path.split(".")[:-1]:
        info = _field_info(section, f"{prefix}{name}", path)
        prefix = f"{prefix}{name}."
        inner = section.values.setdefault(name, info.default.model_dump())
        section = _Section(inner, _kind_of(inner, kinds(info), prefix), kinds(info))
    members = kinds(_field_info(section, path, path))
    if members:
        first = members[0].discriminator or next(iter(members[0].model_fields))
        raise UsageError(
            f"{FLAG}{path} is a section, not a field: did you mean {FLAG}{path}.{first}?"
        )
    return section


def _field_info(section: _Section, part: str, path: str) -> FieldInfo:
    """Return the declaration of the field or section `part` in `section`.

    part: `path` or the path of a section that contains it.
    path: the overridden field, for messages.

    Raises `UsageError` if `section` has no such field or section.
    """
    info = section.kind.model_fields.get(part.rpartition(".")[2])
    if info is not None and (part == path or kinds(info)):
        return info
    if info is None and names.is_field_or_section(path):
        raise UsageError(f"{FLAG}{path}: {names.not_of_this_kind(part, section.kind)}")
    raise UsageError(names.unknown_field(path, FLAG))


def _kind_of(values: Any, members: tuple[type[Settings], ...], prefix: str) -> type[Settings]:
    """Return the kind among `members` that the discriminator in `values` names."""
    if not isinstance(values, dict):
        raise UsageError(f"{prefix[:-1]} must be a section of fields, not {values!r}")
    discriminator = members[0].discriminator
    if discriminator is None:
        return members[0]
    return _named_kind(members, values.get(discriminator), f"{prefix}{discriminator}")


def _named_kind(members: tuple[type[Settings], ...], name: Any, path: str) -> type[Settings]:
    for kind in members:
        if kind_name(kind) == name:
            return kind
    choices = ", ".join(str(kind_name(kind)) for kind in members)
    raise UsageError(f"{path} must be one of {choices}, not {name!r}")


def _change_kind(section: _Section, path: str, name: str) -> None:
    """Change `section` to the kind called `name`, in place."""
    kind = _named_kind(section.kinds, name, f"{FLAG}{path}")
    if kind is section.kind:
        return
    kept = {
        field: value
        for field, value in section.values.items()
        if field in kind.model_fields and value != _default(section.kind, field)
    }
    section.values.clear()
    section.values.update(kept | {str(kind.discriminator): name})


def _default(kind: type[Settings], name: str) -> Any:
    info = kind.model_fields.get(name)
    default = info.default if info else None
    return default.model_dump() if isinstance(default, Settings) else default
