"""Batches by their number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Split
from data.order import positions
from data.records import Records

Batch = dict[str, NDArray[Any]]


class Batches:
    """Batch k of a split as a pure function of (seed, k): `batches[k]`, in any order, any time.

    shuffle=True: epochs without end, each in its own order, one after the other without a
    remainder (see data.order). shuffle=False: once through the split as it is stored; the last
    batch is filled up with rows of weight 0.

    rows: the part of each global batch to read, for a process that feeds only those.
    Threads may share it; to pickle it costs nothing.
    """

    def __init__(
        self,
        split: Split,
        *,
        global_batch_size: int,
        seed: int,
        shuffle: bool,
        rows: slice | None = None,
    ):
        self._split = split
        self._batch_size = global_batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._rows = rows or slice(None)
        self._records = Records(split.path, split.format.dtype)

    def __len__(self) -> int:
        """Batches that hold the split once; shuffled ones have no end."""
        if self._shuffle:
            raise TypeError("shuffled batches have no end")
        return -(-self._split.examples // self._batch_size)

    def __getitem__(self, batch: int) -> Batch:
        """Batch number `batch`, from 0: arrays by name, as `data.dataset` describes them."""
        if batch < 0 or (not self._shuffle and batch >= len(self)):
            raise IndexError(f"there is no batch {batch}")
        if self._shuffle:
            _, places = positions(
                batch,
                batch_size=self._batch_size,
                size=self._split.examples,
                seed=self._seed,
                rows=self._rows,
            )
            return self._split.format.batch(self._records.read(places))
        places = (batch * self._batch_size + np.arange(self._batch_size))[self._rows]
        there = places < self._split.examples
        records = np.zeros(len(places), self._split.format.dtype)
        records[there] = self._records.read(places[there])
        arrays = self._split.format.batch(records)
        arrays["weights"][~there] = 0
        return arrays
