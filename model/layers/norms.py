"""Normalisation over the width, its statistics in float32 whatever the input.

Layer norm: Ba et al. 2016, arXiv:1607.06450. RMS norm: Zhang and Sennrich 2019, arXiv:1910.07467.
"""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.sharding import named


def norm(
    kind: str,
    width: int,
    *,
    epsilon: float,
    use_bias: bool,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """A normalisation of [..., width]: `kind` is "layer_norm" or "rms_norm" (without a bias)."""
    common = {
        "epsilon": epsilon,
        "dtype": jnp.dtype(dtype),
        "param_dtype": jnp.dtype(param_dtype),
        "scale_metadata": named("norm"),
        "rngs": rngs,
    }
    if kind == "rms_norm":
        return nnx.RMSNorm(width, **common)
    if kind == "layer_norm":
        return nnx.LayerNorm(width, use_bias=use_bias, bias_metadata=named("norm"), **common)
    raise ValueError(f"norm {kind!r}: choose 'layer_norm' or 'rms_norm'")
