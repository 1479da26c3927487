"""The shuffled order of every epoch, computed from the seed and the epoch number, without state.

With N records and global batch size B, row i of batch k is example g = k*B + i. It belongs to epoch
g // N, and is the record at place g % N of that epoch's permutation. The batch number is the only
state: any host can compute any batch at any time. Epochs follow each other without a gap, and no
example is dropped, even if N < B.

The permutation is an alternating Feistel network (Luby and Rackoff, 1988) on pairs (l, r) with 0 <=
l < a and 0 <= r < b, where a*b is N or slightly larger. A result of N or more is permuted again
until it is below N (cycle walking; Black and Rogaway, 2002). Only 64-bit integer arithmetic is
used, so the order is the same on every machine and in every version of NumPy.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 12  # with fewer, permutations of five or six records are not all equally likely
_STRIDE = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd
_WORD = 2**64


def permutation(index: ArrayLike, *, size: int, seed: int, epoch: ArrayLike) -> NDArray[np.int64]:
    """Return the record at each place `index` of the shuffled epoch `epoch`.

    index: integers in [0, size).
    epoch: integers >= 0, broadcast against `index`.
    size: number of records N, at least 1 and below 2**62.
    seed: any integer.

    Returns int64 in [0, size); in an epoch, each record is at exactly one place. Raises ValueError
    if an argument is out of range.
    """
    if not 1 <= size < 2**62:
        raise ValueError(f"a permutation of {size} records: there must be 1 to 2**62 - 1")
    index, epoch = np.broadcast_arrays(np.asarray(index, np.int64), np.asarray(epoch, np.int64))
    shape = index.shape
    if index.size and not (index.min() >= 0 and index.max() < size and epoch.min() >= 0):
        raise ValueError(f"places must lie in [0, {size}) and epochs must not be negative")

    places = index.ravel().astype(np.uint64)
    keys = _epoch_keys(seed, size, epoch.ravel().astype(np.uint64))
    records = _network(places, size, keys)
    walking = np.flatnonzero(records >= size)
    while walking.size:  # fewer than one in sqrt(size), each time
        records[walking] = _network(records[walking], size, keys[walking])
        walking = walking[records[walking] >= size]
    return records.astype(np.int64).reshape(shape)


def example_numbers(batch: ArrayLike, *, batch_size: int, rows: slice) -> NDArray[np.int64]:
    """Return the example numbers of the rows `rows` of batch number `batch`, int64 [..., rows].

    batch: a number, or an array of numbers.
    """
    first = np.asarray(batch, np.int64)[..., None] * batch_size
    return first + np.arange(batch_size, dtype=np.int64)[rows]


def positions(
    batch: ArrayLike, *, batch_size: int, size: int, seed: int, rows: slice = slice(None)
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the epoch and the record of each row of shuffled batch number `batch`.

    Each is int64 [rows], or [batches, rows] for an array of batch numbers.

    batch_size: global batch size B.
    size: number of records N.
    rows: the rows of each batch to return.
    """
    epoch, place = np.divmod(example_numbers(batch, batch_size=batch_size, rows=rows), size)
    return epoch, permutation(place, size=size, seed=seed, epoch=epoch)


def _epoch_keys(seed: int, size: int, epoch: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the key of each epoch's network."""
    start = np.array([seed % _WORD], np.uint64)
    return _mix(_mix(_mix(start) + np.uint64(size)) + epoch * np.uint64(_STRIDE))


def _network(places: NDArray[np.uint64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the images of `places` under a permutation of [0, a*b).

    a = ceil(sqrt(size)), b = ceil(size / a).
    """
    rows = math.isqrt(size - 1) + 1
    a, b = np.uint64(rows), np.uint64(-(-size // rows))
    left, right = np.divmod(places, b)
    for _ in range(ROUNDS // 2):
        left = (left + _mix(right + keys)) % a
        keys = keys + np.uint64(_STRIDE)
        right = (right + _mix(left + keys)) % b
        keys = keys + np.uint64(_STRIDE)
    return left * b + right


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood, 2014), a bijection on uint64."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
