"""The formats of exported models, by name."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from configs.data_spec import DataSpec
from configs.schema.config import Config
from interop.formats.source import Source


class Format(Protocol):
    """The module of a format."""

    def obstacle(self, config: Config, data_spec: DataSpec) -> str | None:
        """Return why the format can't hold this model; None if it can.

        The text names the settings that stand in the way, such as "model.pattern=RRA:
        transformers has no recurrent blocks".
        """
        ...

    def write(self, source: Source, out: Path) -> Sequence[str]:
        """Write the model to `out`, a path that does not exist yet. Return notes for the user.

        Raises `UsageError` for an option of `source` that the format can't follow.
        """
        ...


FORMATS = {
    "huggingface": "interop.formats.huggingface",
    "safetensors": "interop.formats.native",
    "gguf": "interop.formats.gguf",
}
"""The module of each format."""


def format_module(name: str) -> Format:
    """Return the module of a format."""
    return cast(Format, importlib.import_module(FORMATS[name]))


def possible_formats(config: Config, data_spec: DataSpec) -> list[str]:
    """Return the names of the formats that can hold a model."""
    return [name for name in FORMATS if format_module(name).obstacle(config, data_spec) is None]
