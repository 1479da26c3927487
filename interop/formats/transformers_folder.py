"""Reads the weights of a folder of transformers for a whole model of ours: a folder that export.py
wrote, or one that somebody downloaded."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tokenizers

from configs.reading.inputs import TOKENIZER
from data.codecs.tokenizers import SEPARATOR
from interop.converting import read_weights
from interop.exported import NAME
from interop.folder import Folder
from interop.formats.registry import Arrays
from interop.loading import tokens_like
from training.model_def import ModelDef
from training.trees import flat


def read_arrays(path: Path, model_def: ModelDef) -> Arrays:
    """Return the arrays of the model `model_def`, head and all.

    If another project wrote the folder, our mask, and our separator if the model has one, are
    copies of tokens of its own. Raises `UsageError` for tensors that are missing, unknown or of
    another shape.
    """
    folder, like = Folder(path), {}
    if not (path / NAME).is_file():
        separator = _added_separator(path / TOKENIZER, model_def)
        like = tokens_like(folder, model_def.config, model_def.data_spec, separator)
    weights = read_weights(
        path,
        _in_dtype_of(folder, model_def.own_params),
        scanned=getattr(model_def.config.model, "scan_layers", False),
        tokens_like=like,
    )
    return flat(weights.params), {}


def _added_separator(tokenizer: Path, model_def: ModelDef) -> tuple[str, int] | None:
    """Return the text and the id of the separator that a run added to the folder's tokens; None if
    it added none."""
    size = model_def.data_spec.vocabulary_size
    if size is None or not tokenizer.is_file():
        return None
    count = max(tokenizers.Tokenizer.from_file(str(tokenizer)).get_vocab().values()) + 1
    return (SEPARATOR, count) if size == count + 1 else None


def _in_dtype_of(folder: Folder, params: Any) -> Any:
    """Return abstract parameters whose dtypes also hold all that the folder has, up to float32."""
    stored = [name for name in folder.dtypes() if name != "float64"]

    def widened(leaf: Any) -> jax.ShapeDtypeStruct:
        dtype = functools.reduce(jnp.promote_types, stored, leaf.dtype)
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    return jax.tree.map(widened, params)
