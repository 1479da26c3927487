"""Rewrites a model as an equal one in the form that transformers has.

A vision transformer gets a table of positions, of its class token too; an encoder in the form of
BERT gets a type of tokens; a model of grey pictures gets three channels (`interop/grey.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.schema.blocks import Architecture
from configs.schema.config import Config
from configs.schema.model import Encoder, TokenBlocks, VisionTransformer
from interop.grey import FIRST_KERNELS, in_colour
from interop.param_layout import stack_of
from model.vit import sincos_positions

POSITIONS, TOKEN_TYPES = "positions", "token_types.table.embedding"


def equal_config(config: Config) -> Config:
    """Return the configuration of the equal model."""
    model = config.model
    changes: dict[str, Any] = {}
    if isinstance(model, VisionTransformer):
        of_token = model.pooling == "class_token"
        changes |= {"positions": "learned", "class_token_position": of_token}
    if _lacks_types(model):
        changes |= {"token_types": 1}
    if _lacks_biases(model):
        changes |= {"use_bias": True}
    return config.model_copy(update={"model": model.model_copy(update=changes)})


def equal_sizes(config: Config, data_spec: DataSpec) -> DataSpec:
    """Return the sizes of the equal model. The vocabulary of a masked model has the mask too."""
    if data_spec.image_shape is not None:
        height, width, _ = data_spec.image_shape
        return replace(data_spec, image_shape=(height, width, 3))
    if config.task.model_output == "missing_tokens":
        return replace(data_spec, vocabulary_size=data_spec.require("vocabulary_size") + 1)
    return data_spec


def equal_params(
    config: Config, data_spec: DataSpec, params: Mapping[str, NDArray]
) -> dict[str, NDArray]:
    """Return the parameters of the equal model, by their dotted names.

    config, data_spec, params: those of the given model.
    """
    model, changed = config.model, dict(params)
    if _lacks_biases(model):
        changed = _with_zero_biases(changed, scanned=getattr(model, "scan_layers", False))
    if data_spec.image_shape is not None and data_spec.image_shape[2] == 1:
        for name in changed.keys() & set(FIRST_KERNELS):
            changed[name] = in_colour(changed[name])
    if _lacks_types(model):
        tokens = changed["embedding.tokens.embedding"]
        changed[TOKEN_TYPES] = np.zeros((1, tokens.shape[1]), tokens.dtype)
    if not isinstance(model, VisionTransformer):
        return changed
    height, width, _ = data_spec.require("image_shape")
    rows, columns = height // model.patch_size, width // model.patch_size
    dtype = changed["patches.kernel"].dtype
    if model.positions == "sincos":
        changed[POSITIONS] = np.asarray(sincos_positions(rows, columns, model.width), dtype)
    elif model.positions == "none":
        changed[POSITIONS] = np.zeros((rows * columns, model.width), dtype)
    has_position = model.class_token_position and model.positions == "learned"
    if model.pooling == "class_token" and not has_position:
        zeros = np.zeros((1, model.width), dtype)
        changed[POSITIONS] = np.concatenate([zeros, changed[POSITIONS]])
    elif model.pooling != "class_token" and has_position:
        changed[POSITIONS] = changed[POSITIONS][1:]  # the row of a class token that is not there
    return changed


def _lacks_types(model: Architecture) -> bool:
    """Return whether a model has the form of BERT, but for the types of tokens."""
    return isinstance(model, Encoder) and model.norm_placement == "post" and not model.token_types


def _lacks_biases(model: Architecture) -> bool:
    """Return whether a model of tokens has layer norms without biases. All families with layer
    norms have biases; zeros change nothing."""
    return isinstance(model, TokenBlocks) and model.norm == "layer_norm" and not model.use_bias


def _with_zero_biases(params: Mapping[str, NDArray], *, scanned: bool) -> dict[str, NDArray]:
    """Return the parameters with a bias of zeros for each norm, and for each linear layer of a
    block, that has none."""
    full = dict(params)
    for name, array in params.items():
        path, _, kind = name.rpartition(".")
        stack = stack_of(name)
        if f"{path}.bias" in params or not (kind == "scale" or (kind == "kernel" and stack)):
            continue
        outputs = 2 if path.endswith((".query", ".key", ".value")) else 1
        stacked = array.shape[:1] if scanned and stack and kind == "kernel" else ()
        shape = array.shape if kind == "scale" else (*stacked, *array.shape[-outputs:])
        full[f"{path}.bias"] = np.zeros(shape, array.dtype)
    return full
