"""Builds a configuration from nested values and overrides, or raises an error with a one-line
message.

The values come from a recipe or a `config.json`, the overrides from the command line, as text.
"""

import ast
import functools
import operator
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn

import pydantic
from pydantic.fields import FieldInfo

from configs.errors import UsageError, quote
from configs.reading import names
from configs.reading.fields import format_value, unused_fields
from configs.schema.config import Config
from configs.schema.settings import Settings, accepts, kind_name, kinds, union_members

FLAG = "--config."
"""The prefix of a field on the command line: `--config.model.width=128`."""

Values = dict[str, Any]


def build_config(values: Mapping[str, Any], overrides: Mapping[str, str], source: str) -> Config:
    """Apply `overrides` (path to text) to `values` (nested sections), and return the configuration.

    source: the origin of `values`, such as the path of a file, for messages.

    Raises `UsageError`.
    """
    return validate(overridden(values, overrides), overrides, source)


def overridden(values: Mapping[str, Any], overrides: Mapping[str, str]) -> Values:
    """Return a copy of `values` with `overrides` applied.

    Overrides that change the kind of a section (`model.architecture=cnn`) are applied first. The
    section then has the defaults of the new kind, except that values which differ from the old
    kind's defaults are kept if the new kind has these fields too.

    Raises `UsageError` if an overridden field does not exist, or a text can't be converted to the
    field's type. Checks nothing else.
    """
    copy: Values = _plain(values)
    if "train.steps" in overrides and isinstance(copy.get("train"), dict):
        copy["train"].pop("epochs", None)  # Both set the length: the command line wins.
    outer_first = sorted(overrides, key=lambda path: path.count("."))
    for path in sorted(outer_first, key=lambda path: not names.is_discriminator(path)):
        section = _find_section(copy, path)
        name, text = path.rpartition(".")[2], overrides[path]
        if name == section.kind.discriminator:
            _change_kind(section, path, text)
            continue
        info = section.kind.model_fields[name]
        try:
            section.values[name] = parse_value(text, info)
        except ValueError:
            raise UsageError(f"{FLAG}{path} must be {accepts(info)}, not {quote(text)}") from None
    return copy


def validate(values: Values, overrides: Mapping[str, str], source: str) -> Config:
    """Check `values`, which already contain `overrides`, and return the configuration.

    Raises `UsageError` if a value is invalid, or if an override has no effect.
    """
    try:
        config = Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise UsageError(_describe(error, values, overrides, source)) from None
    for path, reason in unused_fields(config).items():
        if path in overrides:
            raise UsageError(f"{FLAG}{path}={overrides[path]} has no effect: {reason}")
    return config


def _plain(value: Any) -> Any:
    """Copy nested dictionaries, with tuples in place of lists (JSON has no tuples)."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return tuple(_plain(inner) for inner in value)
    return value


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


def parse_value(text: str, info: FieldInfo) -> Any:
    """Convert `text` to the type of the field that `info` declares. Does not check the range.

    The text `none` becomes None for an optional field. Tuples are `3,4` or `(3, 4)`; texts that
    contain commas need quotes. Raises ValueError if `text` is not a value of that type.
    """
    members = union_members(info.annotation)
    if type(None) in members and text.lower() == "none":
        return None
    return _parse(text, members[0])


def _parse(text: str, annotation: Any) -> Any:
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is tuple:
        return _parse_tuple(text, typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is Literal:
        annotation = type(typing.get_args(annotation)[0])
    if annotation is bool:
        return text.lower() == "true" if text.lower() in ("true", "false") else _refuse(text)
    if annotation is int:
        return int(text) if re.fullmatch(r"[+-]?\d+(_\d+)*", text, re.ASCII) else _refuse(text)
    if annotation is float:
        return float(text)
    return text


def _parse_tuple(text: str, element: Any) -> tuple[Any, ...]:
    bracketed = f"{text[:1]}{text[-1:]}" in ("()", "[]")
    inner = (text[1:-1] if bracketed else text).strip().removesuffix(",")
    if bracketed and not inner:
        return ()
    try:
        quoted = ast.literal_eval(f"({inner},)")
    except (ValueError, SyntaxError):
        quoted = ()  # bare words: data, fsdp
    if quoted and all(isinstance(one, str) for one in quoted):
        return quoted
    return tuple(_parse(part.strip(), element) for part in inner.split(","))


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"not a value: {text!r}")


def _describe(
    error: pydantic.ValidationError, values: Values, overrides: Mapping[str, str], source: str
) -> str:
    """Describe one error in a line: the first in `overrides` if there is one, else the first."""
    mistakes = [(*_path(details["loc"]), details) for details in error.errors()]
    path, info, first = next((one for one in mistakes if one[0] in overrides), mistakes[0])
    given = path in overrides
    where = "" if given or (first["type"] == "value_error" and overrides) else f" (in {source})"
    name = f"{FLAG}{path}" if given else path
    if first["type"] == "extra_forbidden":
        if "." in str(first["loc"][-1]):
            return f"{path} must stand inside its section{where}"
        known = names.is_field_or_section(path)
        return f"{names.not_of_this_kind(path) if known else names.unknown_field(path)}{where}"
    if path not in names.fields():
        return f"{_describe_section(path, first)}{where}"
    value: Any = functools.reduce(operator.getitem, path.split("."), values)
    shown = quote(value) if isinstance(value, str) else format_value(value)
    valid = names.accepted(path) if info is None or names.is_discriminator(path) else accepts(info)
    return f"{name} must be {valid}, not {shown}{where}"


def _describe_section(path: str, error: Mapping[str, Any]) -> str:
    """Describe an error in a whole section: conflicting fields, a wrong kind, or not a section."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"].startswith("union_tag"):
        context = error["ctx"]
        discriminator = f"{path}.{context['discriminator']}".replace("'", "")
        given = f", not {context['tag']!r}" if "tag" in context else ""
        return f"{discriminator} must be {names.accepted(discriminator)}{given}"
    return f"{path} must be a section of fields, not {error['input']!r}"


def _path(location: tuple[str | int, ...]) -> tuple[str, FieldInfo | None]:
    """Convert pydantic's location of an error to the path of the field, and its declaration.

    Pydantic's location also contains the names of kinds and the indices of tuples; the path does
    not.
    """
    members: tuple[type[Settings], ...] = (Config,)
    parts, info = [], None
    for part in location:
        if isinstance(part, int):
            break
        if len(members) > 1:
            members = tuple(kind for kind in members if kind_name(kind) == part)
            continue
        parts.append(part)
        info = members[0].model_fields.get(part) if members else None
        members = kinds(info) if info else ()
    return ".".join(parts), info
