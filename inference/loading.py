"""Loads a trained model from its workdir and answers requests: for scripts, notebooks and the
commands."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from configs.errors import UsageError
from configs.reading.saved import read_config
from data.codecs.tokenizers import Tokenizer
from inference.predictors.predictor import Predictor, Warn, ignore
from inference.predictors.registry import predictor_class
from inference.quantization import slowdown_message, with_weights_dtype
from parallel.mesh import flat_mesh
from training.restore import Restored, restore_model


class LoadedModel:
    """A model restored from a workdir, ready to answer requests:
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
    workdir: Path | str,
    *,
    step: str = "latest",
    weights: str | None = None,
    weights_dtype: str | None = None,
    mesh: Mesh | None = None,
    warn: Warn = ignore,
) -> LoadedModel:
    """Restore a model from its workdir, after verifying its files. step, weights, warn: as in
    `restore_model`.

    weights_dtype: one of `configs.schema.precision.WEIGHTS_DTYPES`; None: as trained. `warn` gets a
    message if products are slower with it on this machine.

    mesh: the devices for its arrays; by default only the first device.

    Raises `UsageError` for a folder that is not a workdir, for a missing step or missing averages,
    for damaged files, and for another `weights_dtype`.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    mesh = mesh or flat_mesh(jax.devices()[:1])
    restored = restore_model(workdir, config, step=step, weights=weights, mesh=mesh, warn=warn)
    converted = with_weights_dtype(restored, weights_dtype)
    if message := slowdown_message(restored, weights_dtype, rows=1):
        warn(message)
    has_tokenizer = hasattr(config.data, "tokenizer")
    tokenizer = load_tokenizer(workdir / "tokenizer.json") if has_tokenizer else None
    return LoadedModel(converted, tokenizer)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from a file; raise `UsageError` if it is damaged or missing."""
    try:
        return Tokenizer.load(path)
    except ValueError as error:
        raise UsageError(str(error)) from None
