"""The interface of a task: its loss and its metrics."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]


class Task(Protocol):
    """Computes sums from a model and a batch, and metrics from the sums of a whole split.

    Sums are over targets (tokens, examples or labels), each weighted by its entry in `weights`. So
    the sums of batches, accumulation steps, devices and hosts can be added exactly. If the model
    generates text, the task also has `text_metrics`, as in `tasks/sequence_to_sequence.py`. The
    methods of each task annotate `model` with the type that they need.
    """

    higher_is_better: ClassVar[frozenset[str]]
    """Metrics that are better when higher. All others are better when lower."""

    extra_tokens: ClassVar[int] = 0
    """Number of tokens that the task adds at the end of the tokenizer's vocabulary."""

    def loss_sums(self, model: Any, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        """Return sums over a training batch: `loss` and `weight`, float32 scalars.

        Training minimises the sum `objective` if it exists, else `loss`. Training reports every
        sum except `objective` and `weight`, divided by `weight`, under the sum's name.
        """
        ...

    def evaluate(self, model: Any, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        """Return sums over an evaluation batch, and arrays [B, ...] for reports and predictions.

        The sums are `loss`, `weight`, and others that `summarize` needs.
        """
        ...

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Compute the metrics of a split from its sums.

        `text_bytes`: the number of UTF-8 bytes of the split's text; None: unknown or no text.
        """
        ...
