"""Stochastic rounding to bfloat16: up or down at random, so that the expected value is the exact
number.

With rounding to nearest, a bfloat16 sum loses an addend that is smaller than 1/512 to 1/256 of the
other one. This affects all updates at a small learning rate, and the decay of a second moment at
beta2 = 0.999. With stochastic rounding, a small addend changes the sum with a probability
proportional to its size (Gupta et al. 2015, arXiv:1502.02551, section 3.1; for bfloat16 Zamirai et
al. 2020, arXiv:2010.06192).
"""

import jax
import jax.numpy as jnp

from training.trees import Tree


def round_stochastically(tree: Tree, dtypes: Tree, key: jax.Array) -> Tree:
    """Cast the float32 leaves of a tree to the dtypes of the leaves of `dtypes`.

    Values cast to bfloat16 are rounded stochastically with `key`. Each leaf has its own random
    numbers; they are the same on every mesh.
    """
    leaves, structure = jax.tree.flatten(tree)
    words = jax.random.bits(key, (len(leaves), 2), jnp.uint32)
    pairs = zip(leaves, jax.tree.leaves(dtypes), words, strict=True)
    rounded = [_rounded(x, like.dtype, own) for x, like, own in pairs]
    return jax.tree.unflatten(structure, rounded)


def _rounded(x: jax.Array, dtype: jnp.dtype, words: jax.Array) -> jax.Array:
    if dtype != jnp.bfloat16 or x.dtype != jnp.float32:
        return x.astype(dtype)
    # bfloat16 is the upper half of float32: uniform noise added to the lower half carries over with
    # the probability of rounding up. Infinity and NaN are cast.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = _hashed(x.shape, words) >> 16
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(dtype))


def _hashed(shape: tuple[int, ...], words: jax.Array) -> jax.Array:
    """Return uint32 noise of `shape`: a hash of two random words and of each element's index in the
    whole array (Chris Wellons, "lowbias32", 2018). This is about 20 times as fast as
    `jax.random.bits`."""
    place, stride = words[0], 1
    for axis in reversed(range(len(shape))):  # No reshape: each device computes its own shard.
        own = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        place = place + own * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    mixed = place ^ (place >> 16)
    mixed = mixed * jnp.uint32(0x7FEB352D)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x846CA68B)
    return (mixed ^ (mixed >> 16)) ^ words[1]
