"""Language modelling: predict each token of a text from the tokens before it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from tasks.losses import (
    Score,
    chunk_count,
    cross_entropy,
    nan_unless_finite,
    sums_over_positions,
)
from tasks.task import Batch, Sums


class TokenPredictor(Protocol):
    """A model of tokens: `hidden` maps inputs to vectors, and `head` maps the vectors to logits."""

    vocabulary_size: int

    def hidden(self, *inputs: Any, **options: Any) -> tuple[jax.Array, Any]: ...

    def head(self, x_BTD: jax.Array, /) -> jax.Array: ...


@dataclass(frozen=True)
class LanguageModeling:
    """The task of predicting each token of a text from the tokens before it.

    A batch contains `tokens`, `targets` int32 [B, T], `weights` float32 [B, T], and optionally
    `segments` int32 [B, T], the document number of each token.

    `label_smoothing`, `z_loss`: as in `tasks.losses.cross_entropy`.
    `loss_chunks`: the number of chunks of positions in which the loss is computed, to save memory;
        None: computed by `tasks.losses.chunk_count` from the number of `devices`.
    """

    label_smoothing: float
    z_loss: float
    loss_chunks: int | None
    devices: int
    extra_tokens: ClassVar[int] = 0
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def loss_sums(
        self, model: TokenPredictor, batch: Batch, *, dropout_key: jax.Array | None
    ) -> Sums:
        def score(logits_BTV: jax.Array, rows: Batch) -> Sums:
            nats_BT, objective_BT = cross_entropy(
                logits_BTV,
                rows["targets"],
                label_smoothing=self.label_smoothing,
                z_loss=self.z_loss,
            )
            weights_BT = rows["weights"]
            return {
                "objective": jnp.sum(objective_BT * weights_BT),
                "loss": jnp.sum(nats_BT * weights_BT),
            }

        sums = self._sums(score, model, batch, dropout_key)
        return sums | {"weight": jnp.sum(batch["weights"])}

    def evaluate(self, model: TokenPredictor, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        def score(logits_BTV: jax.Array, rows: Batch) -> Sums:
            nats_BT, _ = cross_entropy(logits_BTV, rows["targets"])
            weights_BT = rows["weights"]
            best_BT = jnp.argmax(logits_BTV, axis=-1)
            correct_BT = nan_unless_finite(best_BT == rows["targets"], nats_BT)
            return {
                "loss": jnp.sum(nats_BT * weights_BT, axis=-1),
                "correct": jnp.sum(correct_BT * weights_BT),
            }

        sums = self._sums(score, model, batch, None)
        loss_B, weight_B = sums["loss"], jnp.sum(batch["weights"], axis=-1)
        sums = {
            "loss": jnp.sum(loss_B),
            "weight": jnp.sum(weight_B),
            "correct": sums["correct"],
            "examples": jnp.sum(weight_B > 0),
        }
        return sums, {"loss": loss_B, "targets": weight_B}

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Return `examples`, `loss` in nats per token, `perplexity` and `accuracy`; if `text_bytes`
        is given, also `bits_per_byte`, the loss in bits per UTF-8 byte of the split's text."""
        loss = sums["loss"] / sums["weight"]
        metrics = {
            "examples": int(sums["examples"]),
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)) if math.isfinite(loss) else loss,
            "accuracy": sums["correct"] / sums["weight"],
        }
        if text_bytes:
            metrics["bits_per_byte"] = sums["loss"] / math.log(2) / text_bytes
        return metrics

    def _sums(
        self, score: Score, model: TokenPredictor, batch: Batch, dropout_key: jax.Array | None
    ) -> Sums:
        """Run the model on `batch` and return `score(logits, rows)`, at once or in chunks.

        `rows`: the batch's `targets` and `weights`.
        """
        hidden_BTD = self.hidden(model, batch, dropout_key)
        chunks = self.loss_chunks
        if chunks is None:
            logits = jax.eval_shape(model.head, hidden_BTD)
            chunks = chunk_count(logits.shape, devices=self.devices)
        rows = {"targets": batch["targets"], "weights": batch["weights"]}
        chunks = min(chunks, hidden_BTD.shape[1])
        return sums_over_positions(score, model.head, hidden_BTD, rows, chunks=chunks)

    def hidden(
        self, model: TokenPredictor, batch: Batch, dropout_key: jax.Array | None
    ) -> jax.Array:
        """Return the input of `model.head` at each position, [B, T, D]."""
        hidden_BTD, _ = model.hidden(
            batch["tokens"], segments_BT=batch.get("segments"), dropout_key=dropout_key
        )
        return hidden_BTD
