"""Formats the output of `--explain`: all fields of a configuration, with origin and meaning."""

import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from configs.reading import names
from configs.reading.fields import Field, flatten, format_value, unused_fields
from configs.reading.recipes import load_with_inherited
from configs.reading.validation import FLAG
from configs.schema.config import Config
from configs.schema.settings import field_metadata

_WIDTH = 100
_ROW_WIDTH = 120
"""Maximum line length of the text, and of a row with a note."""


def explain(
    recipe: str | Path, overrides: Mapping[str, str] | None = None, *, workdir: str | None = None
) -> str:
    """Return a table of all fields of `recipe`, with `overrides` (path to text) applied.

    The table shows each field's value, the origin of the value, the valid values, the unit and the
    meaning. Raises `UsageError` as `load_config` does, but not if the user's files are missing.
    """
    overrides = overrides or {}
    config, inherited = load_with_inherited(recipe, overrides, workdir)
    fields, unused = flatten(config), unused_fields(config)
    origins = {path: _origin(path, field, overrides) for path, field in fields.items()}
    for part in inherited:
        origins |= dict.fromkeys(part.fields, "train.initialize_from")
    width = max(map(len, fields)) + 2
    lines = [
        f"{recipe}{f', {len(overrides)} overridden' if overrides else ''}. "
        f"{FLAG}FIELD=VALUE changes a field; one with * also where a run goes on."
    ]
    for section, group in groupby(fields.items(), key=lambda item: item[0].partition(".")[0]):
        lines.append("")
        if section not in fields:
            lines.append(f"{section.upper()}: {Config.model_fields[section].description}")
        for path, field in group:
            star = "*" if field_metadata(field.info).get("mutable_on_resume") else " "
            row = f"{star} {path:{width}}{_value(field):20}  {origins[path]}"
            note = f"no effect: {unused[path]}" if path in unused else ""
            if note and len(row) + 2 + len(note) <= _ROW_WIDTH:
                row, note = f"{row}; {note}", ""
            lines += [row, *([f"      {note}"] if note else []), *_meaning(path, field)]
    return "\n".join(lines)


def _meaning(path: str, field: Field) -> list[str]:
    """Return the lines below a field's value: its meaning, the valid values, the unit."""
    unit = field_metadata(field.info).get("unit")
    valid = names.accepted(path, brief=True) + (f", in {unit}" if unit else "")
    indent = " " * 6
    text = f"{field.info.description} [{valid}]"
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _value(field: Field) -> str:
    if field.value is None and field_metadata(field.info).get("required"):
        return "(must be given)"
    return format_value(field.value)


def _origin(path: str, field: Field, overrides: Mapping[str, str]) -> str:
    if path in overrides:
        return "command line"
    # The default kind of a section is declared by the whole configuration, not by the kind itself.
    default = flatten(Config())[path].value if names.is_discriminator(path) else field.info.default
    return "default" if field.value == default else "recipe"
