"""Chooses the chunks in which the arrays of a checkpoint are stored.

A chunk is read as a whole. So an array is stored in several ones: then each of several hosts, or a
host with other shards than those that were saved, reads little more than it needs.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import orbax.checkpoint as ocp

CHUNKS = 16
"""Into about so many chunks a shard is divided, unless they were smaller or larger than this."""

SMALLEST_BYTES, LARGEST_BYTES = 1 << 16, 4 << 20

_LEAST_SHARE = 4
"""A chunk has at least one 4th of the bytes that it may have, or more bytes are allowed."""


def save_args(arrays: Mapping[str, jax.Array | np.ndarray]) -> dict[str, ocp.SaveArgs]:
    """Return Orbax's arguments for saving arrays, by name."""
    return {name: ocp.SaveArgs(chunk_byte_size=chunk_bytes(one)) for name, one in arrays.items()}


def chunk_bytes(array: jax.Array | np.ndarray) -> int | None:
    """Return the largest number of bytes of a chunk of an array; None to store each part of it that
    a device writes as one chunk.

    A dimension can be divided only by its divisors. If they are few, as of a prime number, the
    chunks may become much smaller than they must: then larger ones are allowed.
    """
    return _chunk_bytes(written_shape(array), array.shape, array.dtype.itemsize)


def written_shape(array: jax.Array | np.ndarray) -> tuple[int, ...]:
    """Return the shape of the part of an array that Orbax lets one device write: its shard, or if
    other devices hold the same shard, the share of it that the first divisible dimension gives."""
    if not isinstance(array, jax.Array):  # NumPy's are on no device.
        return array.shape
    shard = array.sharding.shard_shape(array.shape)
    copies = len(array.sharding.device_set) * math.prod(shard) // array.size
    for axis, size in enumerate(shard):
        if size % copies == 0:
            return (*shard[:axis], size // copies, *shard[axis + 1 :])
    return shard


@functools.cache
def _chunk_bytes(shape: tuple[int, ...], whole: tuple[int, ...], itemsize: int) -> int | None:
    size = math.prod(shape) * itemsize
    target = min(max(size // CHUNKS, SMALLEST_BYTES), LARGEST_BYTES)
    while target < size:
        chunk = _divided(shape, whole, target // itemsize)
        if _LEAST_SHARE * math.prod(chunk) * itemsize >= target:
            return target
        target *= 2
    return None


def _divided(shape: Sequence[int], whole: Sequence[int], elements: int) -> list[int]:
    """Return the chunk of at most so many elements that Orbax makes of a part of an array. It takes
    the next smaller divisor of the longest dimension, again and again; first of those in which the
    part is shorter than the whole array."""
    divisors = [_divisors(size) for size in shape]
    axes = [axis for axis, size in enumerate(shape) if size != whole[axis]]
    while math.prod(one[-1] for one in divisors) > elements:
        axes = [axis for axis in axes if len(divisors[axis]) > 1] or list(range(len(shape)))
        divisors[max(axes, key=lambda axis: divisors[axis][-1])].pop()
    return [one[-1] for one in divisors]


def _divisors(size: int) -> list[int]:
    small = [one for one in range(1, math.isqrt(size) + 1) if size % one == 0]
    return sorted({*small, *(size // one for one in small)})
