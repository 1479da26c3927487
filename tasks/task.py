"""What a task is: its batch, loss, metrics and answer."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import jax
from flax import nnx

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


class Task(Protocol):
    """A task turns a model and a batch into sums, and sums over a split into metrics.

    Everything is a sum over targets (tokens, examples, labels), each weighted by its entry in
    `weights`, so that batches, accumulation steps, devices and hosts add up exactly.
    """

    higher_is_better: ClassVar[frozenset[str]]
    """Metrics of which more is better; of all others less is."""

    extra_tokens: ClassVar[int] = 0
    """Entries of the vocabulary that the task adds to those of the tokenizer, at its end."""

    def loss_sums(self, model: nnx.Module, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        """Sums for one training batch: `loss` and `weight`, float32 scalars.

        `loss` is what is reported, and minimised too, unless there is an `objective` beside it.
        The mean of any other sum is reported under its name.
        """
        ...

    def evaluate(self, model: nnx.Module, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        """Sums of all metrics, and per example [B, ...] what a report or a prediction file needs.

        The sums hold `loss`, `weight` and whatever `summarize` divides.
        """
        ...

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Return the metrics of a split from its sums. `text_bytes`: UTF-8 bytes of its text."""
        ...
