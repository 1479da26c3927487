"""Batches examples of similar length, and pads them to one of a few lengths, the bounds.

The shuffled order of data.order is divided into blocks of several batches. The examples of a block
are sorted by length and divided into batches, and these batches are shuffled. All batches have the
same number of examples. A batch still depends only on the seed and its number. Every example occurs
once per epoch, slightly earlier or later than in data.order.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.order import permutation, positions

BLOCK_EXAMPLES = 4096
"""Number of examples per block, at most an epoch. Larger blocks would hardly reduce padding."""

_DISTINCT = 512  # the most distinct lengths considered when choosing bounds

PaddedShape = tuple[int, ...]
"""The lengths that a batch is padded to: (T,), or (S, T) for pairs of texts."""


@dataclass(frozen=True)
class Lengths:
    """The lengths of a split's examples, int32 [examples, L]; broken examples have length 0.

    L is 2 for pairs of texts (source and target), else 1.

    path: the .npy file of the lengths; each process loads it at first use, so that pickles are
        small.
    bounds: for each of the L lengths, the values it may be padded to, in increasing order.
    """

    path: Path
    bounds: tuple[tuple[int, ...], ...]

    def batches_together(self, batch_size: int) -> int:
        """Return the number of batches per block.

        A block is at most an epoch (but at least a batch), so that few examples occur twice in it.
        """
        return max(1, min(BLOCK_EXAMPLES, len(self._values)) // batch_size)

    def arrange(
        self, records: NDArray[np.int64], *, batch_size: int, seed: int, block: int
    ) -> NDArray[np.int64]:
        """Sort the examples of a block into batches; return indices into `records`, [batches, B].

        records: the block's examples in shuffled order.
        block: the number of the block.
        """
        lengths = self._values[records]
        first = np.searchsorted(self.bounds[0], lengths[:, 0])
        places = np.lexsort((lengths[:, -1], first)).reshape(-1, batch_size)
        count = len(places)
        return places[permutation(np.arange(count), size=count, seed=seed, epoch=block)]

    def shape(self, records: NDArray[np.int64]) -> PaddedShape:
        """Return the smallest bounds that a training batch of `records` can be padded to."""
        longest = self._values[records].max(axis=0)
        return tuple(
            bounds[np.searchsorted(bounds, length)]
            for bounds, length in zip(self.bounds, longest, strict=True)
        )

    def longest_first(self, most: int | None = None) -> NDArray[np.int64]:
        """Return the numbers of the examples that are not broken, at most `most`, longest first.

        Examples of the same bucket are consecutive, so that batches have few shapes.
        """
        there = np.flatnonzero(self._values.any(axis=1))
        lengths = self._values[there[:most]]
        return there[np.lexsort((lengths.sum(axis=1), self._buckets(lengths)))[::-1]]

    def common_shape(self, records: NDArray[np.int64]) -> PaddedShape:
        """Return the bounds that an evaluation batch of `records` is padded to.

        A bucket is an index into the bounds. All L lengths use the same bucket, the first into
        which all examples fit. So there are no more shapes than buckets.
        """
        bucket = self._buckets(self._values[records]).max()
        return tuple(bounds[min(bucket, len(bounds) - 1)] for bounds in self.bounds)

    def padding(self, batch_size: int) -> float:
        """Return the share of padding in an epoch's training batches.

        The share is measured with seed 0, on at most about a million examples.
        """
        batches = -(-min(len(self._values), 10**6) // batch_size)
        together = self.batches_together(batch_size)
        real = padded = 0
        for block in range(-(-batches // together)):
            numbers = block * together + np.arange(together)
            _, records = positions(numbers, batch_size=batch_size, size=len(self._values), seed=0)
            records = records.ravel()
            places = self.arrange(records, batch_size=batch_size, seed=0, block=block)
            for of_batch in records[places]:
                real += int(self._values[of_batch].sum())
                padded += len(of_batch) * sum(self.shape(of_batch))
        return 1 - real / padded

    def _buckets(self, lengths: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the first bucket into which each example fits. lengths: int32 [examples, L]."""
        of_each = zip(self.bounds, lengths.T, strict=True)
        return np.max([np.searchsorted(bounds, one) for bounds, one in of_each], axis=0)

    @cached_property
    def _values(self) -> NDArray[np.int32]:
        return np.load(self.path)

    def __getstate__(self):
        return {"path": self.path, "bounds": self.bounds}


def choose_bounds(lengths: ArrayLike, count: int) -> tuple[int, ...]:
    """Choose at most `count` bounds from `lengths` [N], including the longest, for least padding.

    Uses dynamic programming over the distribution of lengths. If there are more than 512 distinct
    lengths, only 512 of them, evenly spaced, are considered.
    """
    lengths = np.asarray(lengths, np.int64)
    values = np.unique(lengths)
    if len(values) > _DISTINCT:
        values = values[np.linspace(0, len(values) - 1, _DISTINCT).round().astype(int)]
    counts = np.bincount(np.searchsorted(values, lengths))
    up_to = np.concatenate([[0], np.cumsum(counts)])  # number of examples shorter than each value
    # cost[j]: positions of the values before j, padded to the bounds chosen so far.
    cost = np.where(np.arange(len(values) + 1) == 0, 0.0, np.inf)
    cuts: list[NDArray[np.int64]] = []
    for _ in range(min(count, len(values))):
        # added[i, j]: positions of values i to j, if all are padded to value j.
        added = values[None, :] * (up_to[None, 1:] - up_to[:-1, None])
        added = np.where(np.arange(len(values))[:, None] <= np.arange(len(values)), added, np.inf)
        totals = cost[:-1, None] + added
        cuts.append(totals.argmin(axis=0))
        cost = np.concatenate([[0.0], totals.min(axis=0)])
    bounds, last = [], len(values)
    for cut in reversed(cuts):
        if last == 0:
            break
        bounds.append(int(values[last - 1]))
        last = int(cut[last - 1])
    return tuple(reversed(bounds))


def write_lengths(records: Path, lengths: ArrayLike) -> None:
    """Write `lengths`, [examples, L], to a file next to the record file `records`."""
    np.save(_path(records), np.array(lengths, np.int32))


def open_lengths(records: Path, count: int) -> Lengths | None:
    """Open the lengths of the record file `records`, and choose up to `count` bounds for each.

    Returns None if no lengths were written.
    """
    path = _path(records)
    if not path.exists():
        return None
    bounds = (choose_bounds(one[one > 0], count) for one in np.load(path).T)
    return Lengths(path, tuple(bounds))


def _path(records: Path) -> Path:
    return records.with_suffix(".lengths.npy")
