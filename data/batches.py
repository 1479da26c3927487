"""Batches by their number."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Split
from data.mixing import schedule
from data.order import permutation, positions
from data.records import Records

Batch = dict[str, NDArray[Any]]


class Batches:
    """Batch k of a split as a pure function of (seed, k): `batches[k]`, in any order, any time.

    shuffle=True: epochs without end, each in its own order, one after the other without a
    remainder (see data.order). shuffle=False: once through the split as it is stored; the last
    batch is filled up with rows of weight 0.

    Of a mixture each source has its own epochs; which one an example is from, data.mixing says.

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
        self._parts = split.parts or (split,)
        self._records = [Records(part.path, part.format.dtype) for part in self._parts]

    def __len__(self) -> int:
        """Batches that hold the split once; shuffled ones have no end."""
        if self._shuffle:
            raise TypeError("shuffled batches have no end")
        return -(-self._split.examples // self._batch_size)

    def __getitem__(self, batch: int) -> Batch:
        """Batch number `batch`, from 0: arrays by name, as `data.dataset` describes them."""
        if batch < 0 or (not self._shuffle and batch >= len(self)):
            raise IndexError(f"there is no batch {batch}")
        form = self._split.format
        if self._shuffle and not self._split.parts:
            _, places = positions(
                batch,
                batch_size=self._batch_size,
                size=self._split.examples,
                seed=self._seed,
                rows=self._rows,
            )
            return form.batch(self._records[0].read(places))
        examples = self._examples(batch)
        if self._shuffle:
            return form.batch(self._read(*self._mixed(examples)))
        there = examples < self._split.examples
        records = np.zeros(len(examples), form.dtype)
        records[there] = self._read(*self._stored(examples[there]))
        arrays = form.batch(records)
        arrays["weights"][~there] = 0
        return arrays

    def origins(self, batch: int) -> list[str]:
        """The part of a mixture that each row of shuffled batch number `batch` is from."""
        numbers, _ = schedule(self._split.weights).pick(self._examples(batch))
        return [self._parts[number].name for number in numbers]

    def _examples(self, batch: int) -> NDArray[np.int64]:
        """Numbers of the examples of a batch that are to be read."""
        return (batch * self._batch_size + np.arange(self._batch_size))[self._rows]

    def _mixed(self, examples: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Part and record of each of `examples` of a shuffled mixture."""
        numbers, before = schedule(self._split.weights).pick(examples)
        records = np.empty_like(before)
        for number, part in enumerate(self._parts):
            mine = numbers == number
            epoch, place = np.divmod(before[mine], part.examples)
            seed = self._seed + (number << 32)  # sets of one size are not shuffled alike
            records[mine] = permutation(place, size=part.examples, seed=seed, epoch=epoch)
        return numbers, records

    def _stored(self, examples: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Part and record of each of `examples` where the parts follow each other."""
        stops = np.cumsum([part.examples for part in self._parts])
        numbers = np.searchsorted(stops, examples, side="right")
        return numbers, examples - np.concatenate([[0], stops])[numbers]

    def _read(self, numbers: NDArray[Any], records: NDArray[np.int64]) -> NDArray[Any]:
        found = np.empty(len(records), self._split.format.dtype)
        for number in np.unique(numbers):
            mine = numbers == number
            found[mine] = self._records[number].read(records[mine])
        return found
