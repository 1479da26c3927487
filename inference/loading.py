"""Loads a trained model and answers requests: for scripts, notebooks and the commands."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from data.codecs.tokenizers import Tokenizer
from inference.predictors.predictor import Predictor, Warn, ignore
from inference.predictors.registry import predictor_class
from inference.quantization import slowdown_message, with_weights_dtype
from inference.sources import ModelSource, source_at
from parallel.mesh import flat_mesh
from training.restore import Restored


class LoadedModel:
    """A restored model, ready to answer requests:
    `load_model(workdir).predict(prompt=["To be"])`."""

    def __init__(self, restored: Restored, tokenizer: Tokenizer | None):
        self.restored, self.tokenizer = restored, tokenizer

    @cached_property
    def module(self) -> nnx.Module:
        """Return the restored model as a module."""
        return self.restored.module

    @cached_property
    def default_predictor(self) -> Predictor[Any, Any]:
        """Return the predictor with the search settings of the model's configuration."""
        return self.predictor({})

    def predictor(self, request: Mapping[str, Any]) -> Predictor[Any, Any]:
        """Return a predictor with the search settings in `request`, such as `beam_size`."""
        model_def = self.restored.model_def
        kind = predictor_class(model_def.config)
        configured = kind.configure(model_def.config, request)
        return kind.of(replace(model_def, config=configured), self.tokenizer)

    def with_context(self, most: int | None) -> "LoadedModel":
        """Return the model with a context of at most so many tokens, if it continues texts: less
        memory is then kept for each. None changes nothing."""
        model_def = self.restored.model_def
        spec, writes = model_def.data_spec, model_def.config.task.model_output == "next_tokens"
        if most is None or not writes or most >= spec.require("max_length"):
            return self
        shorter = replace(model_def, data_spec=replace(spec, max_length=most))
        return LoadedModel(replace(self.restored, model_def=shorter), self.tokenizer)

    def predict(self, *, warn: Warn = ignore, **request: Any) -> Iterator[Any]:
        """Answer a request, given as keyword arguments; `prompt` and `input` are lists.

        Return the answers in the order of the inputs, with `Unreadable` for an input that can't be
        read.

        warn: called with a message for each input that the model can't take as it is, such as a
            text that is cut.

        Raises `UsageError` for a field that this model does not use, or a wrong value.
        """
        config = self.restored.model_def.config
        kind = predictor_class(config)
        kind.check_fields(request, config.task.name)
        inputs = kind.parse(request)
        is_default = kind.configure(config, request) == config
        predictor = self.default_predictor if is_default else self.predictor(request)
        return predictor.predict(self.module, inputs, warn=warn)


def load_model(
    path: Path | str,
    *,
    step: str = "latest",
    weights: str | None = None,
    weights_dtype: str | None = None,
    mesh: Mesh | None = None,
    warn: Warn = ignore,
) -> LoadedModel:
    """Restore a model from the workdir of a run or its mirror, from what export.py wrote, or from a
    folder of transformers, after verifying its files.

    step, weights: of a workdir, as in `restore_model`.

    weights_dtype, mesh, warn: as in `load_source`.

    Raises `UsageError` for a path without a model, for a missing step or missing averages, for
    damaged files, and for another `weights_dtype`.
    """
    source = source_at(path, step, weights)
    return load_source(source, weights_dtype=weights_dtype, mesh=mesh, warn=warn)


def load_source(
    source: ModelSource,
    *,
    weights_dtype: str | None = None,
    mesh: Mesh | None = None,
    warn: Warn = ignore,
) -> LoadedModel:
    """Restore the model of a source.

    weights_dtype: one of `configs.schema.precision.WEIGHTS_DTYPES`; None: as trained. `warn` gets a
    message if products are slower with it on this machine.

    mesh: the devices for its arrays; by default only the first device.

    warn: as in `training.restore.restore_model`.

    Raises `UsageError` for damaged files, and for another `weights_dtype`.
    """
    restored = source.restore(mesh or flat_mesh(jax.devices()[:1]), warn)
    converted = with_weights_dtype(restored, weights_dtype)
    if message := slowdown_message(restored, weights_dtype, rows=1):
        warn(message)
    return LoadedModel(converted, source.tokenizer)
