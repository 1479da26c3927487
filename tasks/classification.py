"""Classification: one label for each example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from tasks.losses import cross_entropy
from tasks.task import Batch, Sums


@dataclass(frozen=True)
class Classification:
    """Batches: `image` uint8 [B, H, W, C], `label` int32 [B], `weights` float32 [B]."""

    label_smoothing: float
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy", "accuracy_top5"})

    def loss_sums(self, model: nnx.Module, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        logits_BC = model(batch["image"], train=True, dropout_key=dropout_key)
        nats_B, minimised_B = cross_entropy(
            logits_BC, batch["label"], label_smoothing=self.label_smoothing
        )
        weights_B = batch["weights"]
        hits_B = jnp.argmax(logits_BC, axis=-1) == batch["label"]
        return {
            "objective": jnp.sum(minimised_B * weights_B),
            "loss": jnp.sum(nats_B * weights_B),
            "accuracy": jnp.sum(hits_B * weights_B),
            "weight": jnp.sum(weights_B),
        }

    def evaluate(self, model: nnx.Module, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        logits_BC = model(batch["image"], train=False).astype(jnp.float32)
        labels_B, weights_B = batch["label"], batch["weights"]
        losses_B, _ = cross_entropy(logits_BC, labels_B)
        _, best_BK = jax.lax.top_k(logits_BC, min(5, logits_BC.shape[-1]))
        hits_BK = best_BK == labels_B[:, None]
        sums = {
            "loss": jnp.sum(losses_B * weights_B),
            "weight": jnp.sum(weights_B),
            "correct": jnp.sum(hits_BK[:, 0] * weights_B),
            "correct_top5": jnp.sum(jnp.any(hits_BK, axis=-1) * weights_B),
            "examples": jnp.sum(weights_B > 0),
        }
        scores_BC = jax.nn.softmax(logits_BC)
        return sums, {
            "label": labels_B,
            "prediction": best_BK[:, 0],
            "probability": jnp.max(scores_BC, axis=-1),
            "scores": scores_BC,
        }

    def summarize(self, sums: Mapping[str, float], facts: Mapping[str, Any]) -> dict[str, float]:
        """`loss` in nats per example; `accuracy` and `accuracy_top5` as shares of one."""
        return {
            "examples": int(sums["examples"]),
            "loss": sums["loss"] / sums["weight"],
            "accuracy": sums["correct"] / sums["weight"],
            "accuracy_top5": sums["correct_top5"] / sums["weight"],
        }
