"""Build a model from the name of its architecture."""

import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.numerics import Numerics

ARCHITECTURES = {
    "decoder": "model.decoder.Decoder",
    "encoder": "model.decoder.Encoder",
    "rnn": "model.rnn.RNN",
    "conformer": "model.conformer.Conformer",
    "sound_encoder": "model.sound.SoundEncoder",
    "encoder_decoder": "model.encoder_decoder.EncoderDecoder",
    "rnn_encoder_decoder": "model.rnn_encoder_decoder.RNNEncoderDecoder",
    "vit": "model.vit.VisionTransformer",
    "resnet": "model.resnet.ResNet",
    "cnn": "model.cnn.CNN",
    "convnext": "model.convnext.ConvNeXt",
}
"""The class of each architecture, as "module.ClassName"."""


def build(
    architecture: str,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    products: DTypeLike = jnp.float32,
    **hyperparameters: Any,
) -> nnx.Module:
    """Build a model with newly initialised parameters; random values come from `rngs.params`.

    `hyperparameters`: the keyword arguments of the architecture's class. These are the fields of
        its configuration, and data sizes such as `vocabulary_size`.
    `dtype`, `param_dtype`, `products`: as in `Numerics`.

    Raises ValueError for an unknown architecture, or for hyperparameters that do not fit together.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: choose from {sorted(ARCHITECTURES)}")
    module, _, name = ARCHITECTURES[architecture].rpartition(".")
    make = getattr(importlib.import_module(module), name)
    numerics = Numerics(jnp.dtype(dtype), jnp.dtype(param_dtype), jnp.dtype(products))
    return make(**hyperparameters, numerics=numerics, rngs=rngs)


def parameter_count(parameters: Any) -> int:
    """Count the scalars in a tree of arrays or abstract arrays, or in a model's parameters."""
    if isinstance(parameters, nnx.Module):
        parameters = nnx.state(parameters, nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
