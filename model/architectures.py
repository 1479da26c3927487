"""The architectures by name, and how a model is built."""

import importlib
import math
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

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
"""Where the class of each architecture is: a module, and its name there."""


def build(
    architecture: str,
    *,
    rngs: nnx.Rngs,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    **hyperparameters: Any,
) -> nnx.Module:
    """A model with fresh parameters, all drawn from `rngs.params`.

    `hyperparameters`: every keyword argument of the architecture's class, sizes of the data among
    them. `dtype` is computed in, `param_dtype` is stored. ValueError: values that do not fit.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture {architecture!r}: choose from {sorted(ARCHITECTURES)}")
    module, _, name = ARCHITECTURES[architecture].rpartition(".")
    make = getattr(importlib.import_module(module), name)
    return make(**hyperparameters, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


def parameter_count(parameters: Any) -> int:
    """The number of scalars in a tree of arrays or of their shapes, or in a model's parameters."""
    if isinstance(parameters, nnx.Module):
        parameters = nnx.state(parameters, nnx.Param)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
