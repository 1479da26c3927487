"""Language modelling: predict each token of a text from those before it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tasks.task import Batch, Sums


@dataclass(frozen=True)
class LanguageModeling:
    """Batches: `tokens`, `targets` int32 [B, T], `weights` float32 [B, T], perhaps `segments`."""

    higher_is_better: frozenset[str] = frozenset({"accuracy"})

    def loss_sums(self, model: nnx.Module, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        losses_BT, _ = self._losses(model, batch, dropout_key)
        weights_BT = batch["weights"]
        return {"loss": jnp.sum(losses_BT * weights_BT), "weight": jnp.sum(weights_BT)}

    def evaluate(self, model: nnx.Module, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        losses_BT, logits_BTV = self._losses(model, batch, None)
        weights_BT = batch["weights"]
        correct_BT = jnp.argmax(logits_BTV, axis=-1) == batch["targets"]
        loss_B = jnp.sum(losses_BT * weights_BT, axis=-1)
        weight_B = jnp.sum(weights_BT, axis=-1)
        sums = {
            "loss": jnp.sum(loss_B),
            "weight": jnp.sum(weight_B),
            "correct": jnp.sum(correct_BT * weights_BT),
            "examples": jnp.sum(weight_B > 0),
        }
        return sums, {"loss": loss_B, "targets": weight_B}

    def summarize(self, sums: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, float]:
        """`loss` in nats per token; `bits_per_byte` over the UTF-8 bytes of the split's text."""
        loss = sums["loss"] / sums["weight"]
        metrics = {
            "examples": int(sums["examples"]),
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "accuracy": sums["correct"] / sums["weight"],
        }
        if facts.get("bytes"):
            metrics["bits_per_byte"] = sums["loss"] / math.log(2) / facts["bytes"]
        return metrics

    @staticmethod
    def _losses(
        model: nnx.Module, batch: Batch, dropout_key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        logits_BTV, _ = model(
            batch["tokens"], segments_BT=batch.get("segments"), dropout_key=dropout_key
        )
        logits_BTV = logits_BTV.astype(jnp.float32)
        losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["targets"])
        return losses_BT, logits_BTV
