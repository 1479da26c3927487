"""A trained model that is to be exported."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.config import Config
from training.restore import Restored
from training.trees import flat


@dataclass(frozen=True)
class Source:
    """A trained model, and how it is to be written.

    tokenizer: the file of its tokenizer; None without one.
    dtype: of the written parameters, "float32", "bfloat16" or "float16"; None: as they are stored.
    command: the command line, for the model card.
    lora: "merged", or "adapter": only the LoRA pairs are written.
    has_metrics: whether the metrics in the manifest are those of these weights; not so for the raw
        weights of a run with averages.
    platforms: what `--platforms` says, for format `stablehlo`; None: its default.
    """

    restored: Restored
    tokenizer: Path | None
    dtype: str | None
    command: str
    lora: str = "merged"
    has_metrics: bool = True
    platforms: str | None = None

    @property
    def config(self) -> Config:
        """Return the configuration of the run."""
        return self.restored.model_def.config

    @property
    def data_spec(self) -> DataSpec:
        """Return the sizes that the model has from its data."""
        return self.restored.model_def.data_spec

    @property
    def metrics(self) -> dict[str, float | None]:
        """Return the metrics of the step by name; none if they are of other weights."""
        return dict(self.restored.manifest["metrics"]) if self.has_metrics else {}

    def with_config(self, config: Config) -> "Source":
        """Return the model with another configuration, and the same arrays."""
        model_def = replace(self.restored.model_def, config=config)
        return replace(self, restored=replace(self.restored, model_def=model_def))

    @cached_property
    def merged(self) -> Restored:
        """Return the model with its LoRA pairs merged into their matrices."""
        restored = self.restored
        graph, params = restored.model_def.graph.merged(restored.params)
        own = restored.model_def.own_params
        return replace(
            restored,
            model_def=replace(restored.model_def, graph=graph, abstract_params=own),
            params=params,
        )

    def params(self) -> dict[str, NDArray]:
        """Return the parameters on the host by their dotted names, in `dtype`, LoRA merged. Raises
        `UsageError` for a number that `dtype` can't hold."""
        return {name: self._cast(name, leaf) for name, leaf in flat(self.merged.params).items()}

    def unmerged_params(self) -> dict[str, NDArray]:
        """Return the parameters as `params` does, but with LoRA pairs as the run has them."""
        return {name: self._cast(name, leaf) for name, leaf in flat(self.restored.params).items()}

    def statistics(self) -> dict[str, NDArray]:
        """Return the batch statistics on the host by their dotted names, in float32."""
        return {name: np.asarray(leaf) for name, leaf in flat(self.merged.statistics).items()}

    def _cast(self, name: str, leaf: jax.Array) -> NDArray:
        if self.dtype is None:
            return np.asarray(leaf)
        cast = leaf.astype(self.dtype)
        if bool(jnp.any(jnp.isfinite(leaf) & ~jnp.isfinite(cast))):
            raise UsageError(
                f"--dtype={self.dtype}: {name} has numbers that are too large for it: take bfloat16"
            )
        return np.asarray(cast)
