"""`--explain`: every field of a configuration, where its value came from, and what it means."""

import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from configs.reading.fields import Field, flatten, needless
from configs.reading.overriding import FLAG
from configs.reading.values import format_value
from configs.schema import Config
from configs.schema.settings import about, accepts


def explain(
    config: Config, recipe: str | Path, overrides: Mapping[str, str], *, width: int = 100
) -> str:
    """Text of about `width` columns: each field's value, origin, range, unit and meaning."""
    fields, unused = flatten(config), needless(config)
    name_width = max(map(len, fields))
    lines = [
        f"{recipe}{f' and {len(overrides)} overrides' if overrides else ''}. "
        f"Change a field with {FLAG}FIELD=VALUE."
    ]
    for section, group in groupby(fields.items(), key=lambda item: item[0].split(".")[0]):
        lines += ["", f"{section.upper()}: {Config.model_fields[section].description}", ""]
        for path, field in group:
            value = _shown(field, unused.get(path))
            origin = _origin(path, field, overrides)
            lines.append(f"  {path:{name_width}} = {value}  [{origin}]")
            text = f"{field.info.description} {_conditions(field, unused.get(path))}"
            indent = " " * (name_width + 5)
            lines += textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
    return "\n".join(lines)


def _shown(field: Field, unused: str | None) -> str:
    if field.value is None and about(field.info).required:
        return "(must be given)"
    value = format_value(field.value)
    return f"({value})" if unused else value


def _origin(path: str, field: Field, overrides: Mapping[str, str]) -> str:
    if path in overrides:
        return "command line"
    return "default" if field.value == field.info.default else "recipe"


def _conditions(field: Field, unused: str | None) -> str:
    """In brackets: what is valid, in which unit, whether it may change, whether it matters."""
    known = about(field.info)
    parts = [accepts(field.info, brief=True)]
    parts += [f"in {known.unit}"] if known.unit else []
    parts += ["free to change on resume"] if known.free_on_resume else []
    parts += [f"no effect: {unused}"] if unused else []
    return f"({'; '.join(parts)})"
