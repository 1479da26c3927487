"""The batches of an evaluation, with every example of a split once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data.batches import Batch, Batches, evaluation_order
from data.dataset import Split
from data.prefetch import stream


@dataclass(frozen=True)
class EvaluationBatches:
    """The examples of `split`, in the order of `evaluation_order`, in batches read ahead by
    threads.

    most: evaluate at most this many. rows: the part of each global batch that this process reads.
    Rows of weight 0 fill up the last batch.
    """

    split: Split
    global_batch_size: int
    rows: slice | None
    most: int | None = None

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The number, in the split, of the example in each row of all batches."""
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
        return stream(batches, 0, len(batches), 0)
