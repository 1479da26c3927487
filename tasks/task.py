"""Defines the interface of a task: its loss and its metrics."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


class Task(Protocol):
    """Computes sums from a model and a batch, and metrics from the sums of a whole split.

    Sums are over targets (tokens, examples, labels), each weighted by its entry in `weights`, so
    that batches, accumulation steps, devices and hosts add up exactly. A task whose model writes
    text also has `text_metrics`, as in `tasks/sequence_to_sequence.py`. Each task names the type of
    model that it takes.
    """

    higher_is_better: ClassVar[frozenset[str]]
    """Metrics that are better when higher. All others are better when lower."""

    extra_tokens: ClassVar[int] = 0
    """Number of tokens that the task adds at the end of the tokenizer's vocabulary."""

    def loss_sums(self, model: Any, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        """Return sums over a training batch: `loss` and `weight`, float32 scalars.

        Training minimises `objective` if there is one, else `loss`. It reports each sum except
        `weight` and `objective` under its name, divided by `weight`.
        """
        ...

    def evaluate(self, model: Any, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        """Return sums over an evaluation batch, and arrays [B, ...] for reports and predictions.

        The sums are `loss`, `weight`, and whatever else `summarize` needs.
        """
        ...

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Compute the metrics of a split from its sums. `text_bytes`: UTF-8 bytes of its text."""
        ...
