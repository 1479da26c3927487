"""A configuration as a flat list of its fields, and the fields without effect."""

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from configs.schema.config import Config
from configs.schema.rules import unused_across_sections
from configs.schema.settings import Settings


@dataclass(frozen=True)
class Field:
    """A field with its value in a configuration."""

    value: Any
    info: FieldInfo


def flatten(section: Settings, prefix: str = "") -> dict[str, Field]:
    """Return every field under `section` by its path; a section's discriminator comes first."""
    declared = type(section).model_fields
    flat: dict[str, Field] = {}
    for name in sorted(declared, key=lambda name: name != section.discriminator):
        value = getattr(section, name)
        if isinstance(value, Settings):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = Field(value, declared[name])
    return flat


def unused_fields(config: Config) -> dict[str, str]:
    """Return the fields that have no effect under the others: path to reason."""
    return unused_across_sections(config) | _unused_within(config, "")


def _unused_within(section: Settings, prefix: str) -> dict[str, str]:
    reasons = {f"{prefix}{name}": why for name, why in section.unused_fields().items()}
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, Settings):
            reasons |= _unused_within(inner, f"{prefix}{name}.")
    return reasons
