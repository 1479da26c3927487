"""Normalisation over the width, with statistics always in float32.

Layer norm: Ba et al. 2016, arXiv:1607.06450. RMS norm: Zhang and Sennrich 2019, arXiv:1910.07467.

Axes: D width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.numerics import Numerics
from model.layers.sharding import named


class LayerNorm(nnx.LayerNorm):
    """Layer norm over the last dimension: (x - mean) / sqrt(variance + epsilon) · scale + bias."""

    scale: nnx.Param

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., D] to [..., D], in `dtype`."""
        y = _normalise(x, self.scale[...].astype(jnp.float32), True, self.epsilon)
        return (y if self.bias is None else y + self.bias[...]).astype(self.dtype)


class RMSNorm(nnx.RMSNorm):
    """RMS norm over the last dimension: x / sqrt(mean of x² + epsilon) · scale."""

    scale: nnx.Param

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., D] to [..., D], in `dtype`."""
        y = _normalise(x, self.scale[...].astype(jnp.float32), False, self.epsilon)
        return y.astype(self.dtype)


def norm(
    kind: str, width: int, numerics: Numerics, rngs: nnx.Rngs, *, epsilon: float, use_bias: bool
) -> nnx.Module:
    """Make a norm for arrays [..., width]. `kind`: "layer_norm", or "rms_norm", which ignores
    `use_bias`. Raises ValueError for an unknown kind."""
    common: dict[str, Any] = {
        "epsilon": epsilon,
        "dtype": numerics.dtype,
        "param_dtype": numerics.param_dtype,
        "scale_metadata": named("norm"),
        "rngs": rngs,
    }
    if kind == "rms_norm":
        return RMSNorm(width, **common)
    if kind == "layer_norm":
        return LayerNorm(width, use_bias=use_bias, bias_metadata=named("norm"), **common)
    raise ValueError(f"norm {kind!r}: choose 'layer_norm' or 'rms_norm'")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _normalise(x: jax.Array, scale_D: jax.Array, centred: bool, epsilon: float) -> jax.Array:
    """Normalise x [..., D] and multiply it by `scale_D`, in float32.

    The backward pass computes its sums over the width as products with the scale, so that XLA on a
    CPU stores fewer arrays.
    """
    return _normalise_forward(x, scale_D, centred, epsilon)[0]


def _normalise_forward(x, scale_D, centred, epsilon):
    x_float32 = x.astype(jnp.float32)
    mean = jnp.mean(x_float32, axis=-1, keepdims=True) if centred else 0.0
    variance = jnp.mean(jnp.square(x_float32 - mean), axis=-1, keepdims=True)
    factor = jax.lax.rsqrt(variance + epsilon)
    return (x_float32 - mean) * factor * scale_D, (x, scale_D, mean, factor)


def _normalise_backward(centred, epsilon, residuals, gradient):
    x, scale_D, mean, factor = residuals
    normal = (x.astype(jnp.float32) - mean) * factor
    product = gradient * normal
    width = scale_D.shape[0]
    normal_gradient = gradient * scale_D - normal * (product @ scale_D / width)[..., None]
    if centred:
        normal_gradient = normal_gradient - (gradient @ scale_D / width)[..., None]
    scale_gradient_D = jnp.sum(product, axis=tuple(range(x.ndim - 1)))
    return (normal_gradient * factor).astype(x.dtype), scale_gradient_D


_normalise.defvjp(_normalise_forward, _normalise_backward)
