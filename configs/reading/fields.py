"""A configuration as a flat list of its fields, and which of them matter."""

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from configs.schema.config import Config
from configs.schema.rules import unused_across_sections
from configs.schema.settings import Settings


@dataclass(frozen=True)
class Field:
    """A field of a configuration at hand."""

    value: Any
    info: FieldInfo


def flatten(section: Settings, prefix: str = "") -> dict[str, Field]:
    """Every field under `section` by its path; what tells the kind of a section comes first."""
    declared = type(section).model_fields
    found: dict[str, Field] = {}
    for name in sorted(declared, key=lambda name: name != section.discriminator):
        value = getattr(section, name)
        if isinstance(value, Settings):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = Field(value, declared[name])
    return found


def unused_fields(config: Config) -> dict[str, str]:
    """Fields, by their path, that have no effect under the others, each with why."""
    return unused_across_sections(config) | _unused_within(config, "")


def _unused_within(section: Settings, prefix: str) -> dict[str, str]:
    reasons = {f"{prefix}{name}": why for name, why in section.unused_fields().items()}
    for name in type(section).model_fields:
        inner = getattr(section, name)
        if isinstance(inner, Settings):
            reasons |= _unused_within(inner, f"{prefix}{name}.")
    return reasons
