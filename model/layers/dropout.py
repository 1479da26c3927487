"""Dropout whose key is an argument: no random state lives in the model.

Axes: B batch, T length, D width.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each element with probability `rate` and scale the rest up; x itself without a key."""
    if key is None or rate == 0:
        return x
    return nnx.Dropout(rate)(x, rngs=key)


def drop_examples(y_BTD: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """Zero all of an example with probability `rate` and scale the others up: what a residual
    block adds, under stochastic depth (Huang et al. 2016, arXiv:1603.09382)."""
    kept_B11 = jax.random.bernoulli(key, 1 - rate, (y_BTD.shape[0], 1, 1))
    return jnp.where(kept_B11, y_BTD / (1 - rate), 0).astype(y_BTD.dtype)
