"""Lists all fields of a configuration, those that have no effect, and values as text."""

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from configs.schema.config import Config
from configs.schema.rules import unused_across_sections
from configs.schema.settings import Settings


@dataclass(frozen=True)
class Field:
    """A field: its value in a configuration, and its declaration."""

    value: Any
    info: FieldInfo


def flatten(section: Settings, prefix: str = "") -> dict[str, Field]:
    """Return all fields of `section` and its subsections: path to field. prefix: written before
    each path."""
    flat: dict[str, Field] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Settings):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = Field(value, info)
    return flat


def unused_fields(config: Config) -> dict[str, str]:
    """Return the fields that have no effect because of other fields: path to reason."""
    return unused_across_sections(config) | _unused_within(config, "")


def format_value(value: Any) -> str:
    """Return a value as text that the command line accepts."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unused_within(section: Settings, prefix: str) -> dict[str, str]:
    reasons = {f"{prefix}{name}": why for name, why in section.unused_fields().items()}
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, Settings):
            reasons |= _unused_within(inner, f"{prefix}{name}.")
    return reasons
