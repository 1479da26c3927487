"""`triform.json`: what an exported model is, so that every command can use it as a workdir."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.validation import build_config
from configs.schema.config import Config

NAME = "triform.json"
TOKENIZER = "tokenizer.json"
ORIGINAL_TOKENIZER = "triform_tokenizer.json"
"""The tokenizer as the run had it, if `TOKENIZER` is one for transformers."""

VERSION = 1
"""Changes when a reader of the old version would misread the new one."""


@dataclass(frozen=True)
class Exported:
    """The description of an exported model.

    format: one of `interop.formats.registry.FORMATS`.
    step: the number of steps that it was trained for.
    config: the configuration of its run, as nested dictionaries.
    data: the field `data` of its checkpoint's manifest: sizes, names of classes, fingerprint.
    metrics: those of the step, by name.
    """

    format: str
    step: int
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, float]

    @property
    def data_spec(self) -> DataSpec:
        """Return the sizes that the model has from its data."""
        return DataSpec.from_manifest(self.data)

    def configuration(self, overrides: Mapping[str, str] | None = None) -> Config:
        """Return the configuration, with new values of some fields. Raises `UsageError` for one
        that is invalid."""
        return build_config(dict(self.config), overrides or {}, source=NAME)

    def text(self) -> str:
        """Return the description as JSON."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def read(cls, text: str, where: Path) -> Self:
        """Read what `text` returned. Raises `UsageError` if it is damaged or of a newer version;
        the message names the file `where`."""
        try:
            values = json.loads(text)
            version = values.pop("version")
            if version != VERSION:
                raise UsageError(
                    f"{where} has version {version}, and this version of Triform reads {VERSION}"
                )
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{where} is damaged: {error}") from None


def tokenizer_file(folder: Path) -> Path | None:
    """Return the file of an exported model's tokenizer, as its run had it; None without one."""
    files = (folder / name for name in (ORIGINAL_TOKENIZER, TOKENIZER))
    return next((file for file in files if file.is_file()), None)
