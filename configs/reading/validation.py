"""Checks nested values and builds a `Config`, or raises an error with a one-line message."""

from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from configs.errors import UsageError
from configs.reading import names
from configs.reading.fields import unused_fields
from configs.reading.overriding import FLAG, Values, override
from configs.reading.values import format_value, quote
from configs.schema.config import Config
from configs.schema.settings import Settings, accepts, kind_name, kinds


def build_config(values: Mapping[str, Any], overrides: Mapping[str, str], source: str) -> Config:
    """Apply `overrides` (path to text) to `values` (nested sections), and return the configuration.

    source: the origin of `values`, such as the path of a file, for messages.

    Raises `UsageError`.
    """
    return validate(overridden(values, overrides), overrides, source)


def overridden(values: Mapping[str, Any], overrides: Mapping[str, str]) -> Values:
    """Return a copy of `values` with `overrides` applied.

    Checks only that the overridden fields exist, and that the texts fit their types.
    """
    copy: Values = _plain(values)
    if "train.steps" in overrides and isinstance(copy.get("train"), dict):
        copy["train"].pop("epochs", None)  # Both set the length: the command line wins.
    override(copy, overrides)
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
    value = _value_at(values, path)
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


def _value_at(values: Values, path: str) -> Any:
    value: Any = values
    for name in path.split("."):
        value = value[name]
    return value
