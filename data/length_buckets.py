"""Examples of many lengths in batches of few shapes.

Each length is padded to one of a few bounds. The shuffled order of data.order is cut into blocks
of some batches; within a block examples are sorted by length and cut into batches, and the batches
shuffled. So a batch holds as many examples as any other, of about one length; it is still a
function of (seed, its number) alone; and every example comes once an epoch, only a little earlier
or later than it would.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data.order import permutation, positions

BLOCK_EXAMPLES = 4096
"""Examples that are sorted together, if an epoch has so many: more would gain little."""

_DISTINCT = 512  # lengths that are kept apart when bounds are chosen

PaddedShape = tuple[int, ...]


@dataclass(frozen=True)
class Lengths:
    """The lengths of a split's examples: int32 [examples, L] in the file `path` (.npy), which is
    opened at its first use, in each process. It pickles small. Examples of length 0 are broken.

    bounds: for each of the L lengths what it is padded to, the longest at the end.
    """

    path: Path
    bounds: tuple[tuple[int, ...], ...]

    def batches_together(self, batch_size: int) -> int:
        """Return the number of batches in a block: at most an epoch, so that few examples come
        twice in one."""
        return max(1, min(BLOCK_EXAMPLES, len(self._values)) // batch_size)

    def arrange(
        self, records: NDArray[np.int64], *, batch_size: int, seed: int, block: int
    ) -> NDArray[np.int64]:
        """Return the places in `records` [examples of the block] of the rows of its batches
        [batches, B]."""
        lengths = self._values[records]
        first = np.searchsorted(self.bounds[0], lengths[:, 0])
        places = np.lexsort((lengths[:, -1], first)).reshape(-1, batch_size)
        count = len(places)
        return places[permutation(np.arange(count), size=count, seed=seed, epoch=block)]

    def shape(self, records: NDArray[np.int64]) -> PaddedShape:
        """Return the bounds that a batch of `records` is padded to."""
        longest = self._values[records].max(axis=0)
        return tuple(
            bounds[np.searchsorted(bounds, length)]
            for bounds, length in zip(self.bounds, longest, strict=True)
        )

    def longest_first(self, most: int | None = None) -> NDArray[np.int64]:
        """Return the examples that count, or the first `most` of them, sorted so that batches of
        them have few common shapes."""
        there = np.flatnonzero(self._values.any(axis=1))
        lengths = self._values[there[:most]]
        return there[np.lexsort((lengths.sum(axis=1), self._buckets(lengths)))[::-1]]

    def common_shape(self, records: NDArray[np.int64]) -> PaddedShape:
        """Return the bounds that an evaluation batch of `records` is padded to: all lengths of the
        bucket that the longest needs, so that there are no more shapes than buckets."""
        bucket = self._buckets(self._values[records]).max()
        return tuple(bounds[min(bucket, len(bounds) - 1)] for bounds in self.bounds)

    def padding(self, batch_size: int) -> float:
        """Return the share of padding in an epoch's training batches, measured on those of seed 0
        and at most a million examples."""
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
        """Return for each example, of `lengths` int32 [examples, L], the first bucket with room
        for all."""
        of_each = zip(self.bounds, lengths.T, strict=True)
        return np.max([np.searchsorted(bounds, one) for bounds, one in of_each], axis=0)

    @cached_property
    def _values(self) -> NDArray[np.int32]:
        return np.load(self.path)

    def __getstate__(self):
        return {"path": self.path, "bounds": self.bounds}


def choose_bounds(lengths: ArrayLike, count: int) -> tuple[int, ...]:
    """At most `count` of the `lengths` [N], the longest among them, to pad all of them to with the
    least padding: by dynamic programming over their distribution."""
    lengths = np.asarray(lengths, np.int64)
    values = np.unique(lengths)
    if len(values) > _DISTINCT:
        values = values[np.linspace(0, len(values) - 1, _DISTINCT).round().astype(int)]
    counts = np.bincount(np.searchsorted(values, lengths))
    up_to = np.concatenate([[0], np.cumsum(counts)])  # examples before each of the values
    # cost[j]: of the values before j, padded to as many bounds as were given so far.
    cost = np.where(np.arange(len(values) + 1) == 0, 0.0, np.inf)
    cuts: list[NDArray[np.int64]] = []
    for _ in range(min(count, len(values))):
        # added[i, j]: the cost of a bound at value j - 1 for all values from i on.
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
    """Write the `lengths` of the examples in the file `records`, in their order."""
    np.save(_path(records), np.array(lengths, np.int32))


def open_lengths(records: Path, count: int) -> Lengths:
    """Open what was written for the file `records`, with at most `count` bounds for each length."""
    path = _path(records)
    bounds = (choose_bounds(one[one > 0], count) for one in np.load(path).T)
    return Lengths(path, tuple(bounds))


def _path(records: Path) -> Path:
    return records.with_suffix(".lengths.npy")
