"""Random access to the batches of a split by batch number."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from configs.schema.config import Config
from data.dataset import Dataset, ExampleCodec, Split
from data.length_buckets import Lengths, PaddedShape
from data.mixing import schedule
from data.order import example_numbers, permutation, positions
from data.records import KEPT_BYTES, RecordReader

Batch = dict[str, NDArray[Any]]


class BatchPlan(NamedTuple):
    """The records to read for a block of consecutive batches. Each array is [batches, rows].

    numbers: index of the part of the mixture.
    records: index of the record in that part.
    examples: number of the example in the training stream.
    shapes: the shape that each batch is padded to; None if examples have no lengths.
    """

    numbers: NDArray[Any]
    records: NDArray[np.int64]
    examples: NDArray[np.int64]
    shapes: Sequence[PaddedShape] | None = None


_BLOCK_ROWS = 4096  # planned at once: planning one row takes as long as planning hundreds


class Batches:
    """The batches of a split. `batches[k]` depends only on the seed and k; any k can be read next.

    With shuffle=True (training), epochs follow each other without end, augmented, each in its own
    order. A batch may contain the end of one epoch and the start of the next (see data.order). With
    shuffle=False (evaluation), there is one pass over the examples with the numbers `examples`, in
    that order (see evaluation_order), or over the whole split if None. The last batch is filled up
    with rows of weight 0.

    In a mixture each source has its own epochs, and data.mixing chooses the source of each example.
    Examples with lengths are batched with others of similar length (see data.length_buckets).

    rows: the rows of each global batch that this process reads; None for all.
    kept_bytes: a record file up to this size is read once and kept in memory.

    Instances are thread-safe. Their pickles are small, because they contain no records; files are
    reopened after unpickling.
    """

    def __init__(
        self,
        split: Split,
        *,
        global_batch_size: int,
        seed: int,
        shuffle: bool,
        examples: NDArray[np.int64] | None = None,
        rows: slice | None = None,
        kept_bytes: int = KEPT_BYTES,
    ):
        self._split = split
        self._batch_size = global_batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._chosen = examples
        self._rows = rows or slice(None)
        self._parts = split.parts or (split,)
        self._records = [
            RecordReader(part.path, part.codec.dtype, part.examples, kept_bytes)
            for part in self._parts
        ]
        self._block_batches = -(-_BLOCK_ROWS // global_batch_size)
        if split.lengths is not None:
            self._block_batches = split.lengths.batches_together(global_batch_size)
        self._plans: dict[int, BatchPlan] = {}  # the last two blocks, since threads read from both

    def __len__(self) -> int:
        """Return the number of batches in one pass.

        Raises TypeError if batches are shuffled, because they have no end.
        """
        if self._shuffle:
            raise TypeError("shuffled batches have no end")
        return -(-self._count // self._batch_size)

    def __getitem__(self, batch: int) -> Batch:
        """Return batch number `batch` (from 0) as arrays by name, as described in `data.dataset`.

        Raises IndexError if there is no such batch.
        """
        if batch < 0 or (not self._shuffle and batch >= len(self)):
            raise IndexError(f"there is no batch {batch}")
        if self._shuffle:
            block, place = divmod(batch, self._block_batches)
            plan = self._plan(block)
            found = self._read(plan.numbers[place], plan.records[place])
            codec = self._codec(plan.shapes[place] if plan.shapes else None)
            if codec.is_augmented:
                return codec.augmented_batch(found, self._seed, plan.examples[place])
            return codec.batch(found)
        places = self._examples(batch)
        there = places < self._count
        codec = self._codec(self._shape(batch))
        records = np.zeros(len(places), codec.dtype)
        records[there] = self._read(*self._locate(self._in_order(places[there])))
        arrays = codec.batch(records)
        arrays["weights"][~there] = 0
        return arrays

    @property
    def in_memory(self) -> bool:
        """True if all records stay in memory after the first read, and no batch is expensive."""
        return all(one.are_few for one in self._records) and not self.is_expensive

    @property
    def is_expensive(self) -> bool:
        """True if making a batch takes longer than passing it between threads."""
        return self._split.codec.is_expensive

    def origins(self, batch: int) -> list[str]:
        """Return, for each row of a shuffled batch, the name of its part of the mixture."""
        numbers, _ = schedule(self._split.weights).pick(self._examples(batch))
        return [self._parts[number].name for number in numbers]

    def _examples(self, batch: ArrayLike) -> NDArray[np.int64]:
        """Return the numbers of the examples that this process reads, of one batch or of several.

        batch: a batch number, or an array of them.

        Returns int64 [rows] or [batches, rows].
        """
        return example_numbers(batch, batch_size=self._batch_size, rows=self._rows)

    @property
    def _count(self) -> int:
        """The number of examples in one pass, if not shuffled."""
        return self._split.examples if self._chosen is None else len(self._chosen)

    def _in_order(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the examples at `places` of the evaluation order."""
        return places if self._chosen is None else self._chosen[places]

    def _shape(self, batch: int) -> PaddedShape | None:
        """Return the shape that an evaluation batch is padded to, the same for all `rows`."""
        if self._split.lengths is None:
            return None
        start = batch * self._batch_size
        places = np.arange(start, min(start + self._batch_size, self._count))
        return self._split.lengths.common_shape(self._in_order(places))

    def _codec(self, shape: PaddedShape | None) -> ExampleCodec:
        codec = self._split.codec
        return codec if shape is None else codec.padded_to(shape)

    def _plan(self, block: int) -> BatchPlan:
        plans = self._plans  # other threads may replace the dictionary, but never change it
        if block not in plans:
            batches = block * self._block_batches + np.arange(self._block_batches)
            plans = dict(itertools.islice(reversed(plans.items()), 1))
            if self._split.lengths is not None:
                plans[block] = self._plan_by_length(self._split.lengths, batches, block)
            else:
                plan = self._plan_mixture if self._split.parts else self._plan_single
                plans[block] = plan(batches)
            self._plans = plans
        return plans[block]

    def _plan_single(self, batches: NDArray[np.int64]) -> BatchPlan:
        _, records = positions(
            batches,
            batch_size=self._batch_size,
            size=self._split.examples,
            seed=self._seed,
            rows=self._rows,
        )
        return BatchPlan(np.zeros_like(records), records, self._examples(batches))

    def _plan_by_length(
        self, lengths: Lengths, batches: NDArray[np.int64], block: int
    ) -> BatchPlan:
        size = self._batch_size
        _, records = positions(batches, batch_size=size, size=self._split.examples, seed=self._seed)
        records = records.ravel()
        places = lengths.arrange(records, batch_size=size, seed=self._seed, block=block)
        records = records[places]
        shapes = [lengths.shape(of_batch) for of_batch in records]
        records = records[:, self._rows]
        examples = batches[0] * size + places[:, self._rows]
        return BatchPlan(np.zeros_like(records), records, examples, shapes)

    def _plan_mixture(self, batches: NDArray[np.int64]) -> BatchPlan:
        examples = self._examples(batches)
        numbers, before = schedule(self._split.weights).pick(examples)
        records = np.empty_like(before)
        for number, part in enumerate(self._parts):
            mine = numbers == number
            epoch, place = np.divmod(before[mine], part.examples)
            seed = self._seed + (number << 32)  # sets of equal size get different orders
            records[mine] = permutation(place, size=part.examples, seed=seed, epoch=epoch)
        return BatchPlan(numbers, records, examples)

    def _locate(self, examples: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the part and the record of each of `examples`, numbered over all parts."""
        stops = np.cumsum([part.examples for part in self._parts])
        numbers = np.searchsorted(stops, examples, side="right")
        return numbers, examples - np.concatenate([[0], stops])[numbers]

    def _read(self, numbers: NDArray[Any], records: NDArray[np.int64]) -> NDArray[Any]:
        if len(self._records) == 1:
            return self._records[0].read(records)
        found = np.empty(len(records), self._split.codec.dtype)
        for number in np.unique(numbers):
            mine = numbers == number
            found[mine] = self._records[number].read(records[mine])
        return found


def training_batches(config: Config, dataset: Dataset, rows: slice | None) -> Batches:
    """Return the endless shuffled batches of the training split.

    rows: the part of each global batch that this process reads; None for all.
    """
    return Batches(
        dataset.splits["train"],
        global_batch_size=config.data.global_batch_size,
        seed=config.seed,
        shuffle=True,
        rows=rows,
    )


def shapes_of(batch: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a batch's arrays. The train step is compiled once per result."""
    return tuple(array.shape for array in batch.values())


def evaluation_order(split: Split, most: int | None = None) -> NDArray[np.int64]:
    """Return the numbers of the examples to evaluate, in the order of evaluation.

    most: the maximum number of examples; None for all. If examples have lengths, the longest come
    first. Then there are few batch shapes with little padding; memory runs out in the first batch
    or never; and only the last batch, the shortest, is filled up with padding rows.
    """
    if split.lengths is not None:
        return split.lengths.longest_first(most)
    return np.arange(split.examples)[:most]
