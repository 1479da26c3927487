"""Dropout whose key is an argument: no random state lives in the model."""

import jax
from flax import nnx


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each element with probability `rate` and scale the rest up; x itself without a key."""
    if key is None or rate == 0:
        return x
    return nnx.Dropout(rate)(x, rngs=key)
