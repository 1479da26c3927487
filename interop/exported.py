"""`triform.json`: what an exported model is, so that every command can use it as a workdir."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.json_text import with_nulls
from configs.reading.inputs import EXPORTED
from configs.reading.saved import check_mutable
from configs.reading.validation import build_config
from configs.schema.config import Config

NAME = EXPORTED
FOREIGN = "transformers"
"""The `format` of a folder that another project wrote."""

VERSION = 1
"""Changes when a reader of the old version would misread the new one."""


@dataclass(frozen=True)
class Exported:
    """The description of an exported model.

    format: one of `interop.formats.registry.READERS`.
    step: the number of steps that it was trained for.
    config: the configuration of its run, as nested dictionaries.
    data: the field `data` of its checkpoint's manifest: sizes, names of classes, fingerprint. There
        is no fingerprint if another project trained the model.
    metrics: those of the step, by name; None for one that is not finite.
    special_tokens: the fields of `data.codecs.tokenizers.SpecialTokens`; None if we made the
        tokenizer, or if it puts tokens around texts that tell its role.
    """

    format: str
    step: int
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, float | None]
    special_tokens: Mapping[str, Any] | None = None

    @property
    def is_foreign(self) -> bool:
        """Return whether another project trained the model: there is no data of it."""
        return "fingerprint" not in self.data

    @property
    def data_spec(self) -> DataSpec:
        """Return the sizes that the model has from its data."""
        return DataSpec.from_manifest(self.data)

    def configuration(
        self, overrides: Mapping[str, str] | None = None, *, where: str | Path = NAME
    ) -> Config:
        """Return the configuration, with new values of some fields.

        `data.cache_dir` has its default, and so have the fields of `serve` except `max_context`.
        Raises `UsageError` for a field that is invalid, or that is not mutable on resume; the
        message names the file `where`.
        """
        overrides = overrides or {}
        check_mutable(overrides, where)
        # Whoever wrote the file decides neither where compiled programs are read from, nor who may
        # use a server.
        values = dict(self.config)
        if isinstance(values.get("data"), dict):
            values["data"] = values["data"] | {"cache_dir": None}
        served = values.pop("serve", None)
        if isinstance(served, dict) and "max_context" in served:
            values["serve"] = {"max_context": served["max_context"]}
        return build_config(values, overrides, source=str(where))

    def text(self) -> str:
        """Return the description as JSON."""
        values = with_nulls({"version": VERSION, **asdict(self)})
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

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
            exported = cls(**values)
            if not isinstance(exported.config, dict) or not exported.data_spec:
                raise ValueError("config is no section")
            return exported
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{where} is damaged: {error}") from None
