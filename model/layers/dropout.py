"""Dropout functions with the random key as an argument, because models have no random state.

Axes: B batch, T length, D width.
"""

import jax
import jax.numpy as jnp


def split_key(key: jax.Array | None, count: int = 2) -> jax.Array | list[jax.Array | None]:
    """Split `key` into `count` keys; if it is None, return a list of `count` Nones."""
    return [None] * count if key is None else jax.random.split(key, count)


def fold_key(key: jax.Array | None, number: jax.Array | int) -> jax.Array | None:
    """Derive a new key from `key` and `number`; if `key` is None, return None."""
    return None if key is None else jax.random.fold_in(key, number)


def apply_dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zero each element of x with probability `rate` and divide the others by 1 - rate; if `key` is
    None, return x."""
    if key is None or rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    # A word of 32 random bits serves two neighbours: half the time of `jax.random.bernoulli`.
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)
    numbers = halves.reshape(*words.shape[:-1], -1)[..., : x.shape[-1]]
    # The rate is rounded to a multiple of 2^-16, and the scale with it.
    kept = min(max(round((1 - rate) * 2**16), 1), 2**16)
    return jnp.where(numbers <= kept - 1, x * (2**16 / kept), 0).astype(x.dtype)


def drop_examples(y_BTD: jax.Array, rate: jax.Array | float, key: jax.Array) -> jax.Array:
    """Apply stochastic depth to the output of a residual branch: zero each whole example with
    probability `rate` and divide the others by 1 - rate (Huang et al. 2016, arXiv:1603.09382)."""
    kept_B11 = jax.random.bernoulli(key, 1 - rate, (y_BTD.shape[0], 1, 1))
    return jnp.where(kept_B11, y_BTD / (1 - rate), 0).astype(y_BTD.dtype)
