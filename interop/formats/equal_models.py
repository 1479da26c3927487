"""Rewrites a model as an equal one in the form that transformers has.

A vision transformer gets a table of positions, of its class token too; an encoder in the form of
BERT gets a type of tokens; a model of grey pictures gets three channels (`interop/grey.py`).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.schema.blocks import Architecture
from configs.schema.config import Config
from configs.schema.model import Encoder, VisionTransformer
from interop.grey import FIRST_KERNELS, in_colour
from model.vit import sincos_positions

POSITIONS, TOKEN_TYPES = "positions", "token_types.table.embedding"


def equal_config(config: Config) -> Config:
    """Return the configuration of the equal model."""
    model, changes = config.model, {}
    if isinstance(model, VisionTransformer):
        of_token = model.pooling == "class_token"
        changes = {"positions": "learned", "class_token_position": of_token}
    elif _lacks_types(model):
        changes = {"token_types": 1}
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
