"""Batches for one evaluation, which reads each example of a split once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.batches import Batch, Batches, evaluation_order
from data.dataset import Split
from data.prefetch import stream


@dataclass(frozen=True)
class EvaluationBatches:
    """Iterates over batches of `split`, prefetched by threads, with each example once.

    Examples are in the order of `data.batches.evaluation_order`.

    rows: the rows of each global batch that this process reads; None for all.
    most: the maximum number of examples; None for all.
    on_batch: called before each batch.

    The last batch is filled up with rows of weight 0.
    """

    split: Split
    global_batch_size: int
    rows: slice | None
    most: int | None = None
    on_batch: Callable[[], None] = lambda: None

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The number in the split of each evaluated example, in order, int64 [examples]."""
        return evaluation_order(self.split, self.most)

    def __iter__(self) -> Iterator[Batch]:
        batches = Batches(
            self.split,
            global_batch_size=self.global_batch_size,
            seed=0,
            shuffle=False,
            examples=self.order,
            rows=self.rows,
        )
        for batch in stream(batches, 0, len(batches), 0):
            self.on_batch()
            yield batch
