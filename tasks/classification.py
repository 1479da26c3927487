"""Classification: one label for each example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from tasks.losses import cross_entropy, right_answers
from tasks.mixing import mix
from tasks.task import Batch, Sums


@dataclass(frozen=True)
class Classification:
    """Batches: `image` uint8 [B, H, W, C], or `tokens` and `segments` int32 [B, T], or `frames`
    float32 [B, T, F] and `segments` int32 [B, T]; `label` int32 [B], `weights` float32 [B].

    `class_weights`: how much an example of each class counts in training, as in
    `tasks.losses.cross_entropy`; () all alike. `mixup`, `cutmix`: as in `tasks.mixing`.
    """

    label_smoothing: float
    class_weights: tuple[float, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    extra_tokens: ClassVar[int] = 0
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy", "accuracy_top5"})

    def loss_sums(self, model: nnx.Module, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        model_key, mix_key = jax.random.split(dropout_key)
        images = batch.get("image")
        labels_B, others_B, share_B = batch["label"], None, None
        if images is not None and (self.mixup or self.cutmix):
            images, others_B, share_B = mix(
                images,
                labels_B,
                batch["weights"],
                mix_key,
                mixup=self.mixup,
                cutmix=self.cutmix,
            )
        logits_BC = _logits(model, batch, images, train=True, dropout_key=model_key)
        class_weights_C = jnp.asarray(self.class_weights) if self.class_weights else None

        best_B = jnp.argmax(logits_BC, axis=-1)

        def sums_of(labels_B: jax.Array) -> Sums:
            nats_B, minimised_B = cross_entropy(
                logits_BC,
                labels_B,
                label_smoothing=self.label_smoothing,
                class_weights=class_weights_C,
            )
            counts_B = 1.0 if class_weights_C is None else class_weights_C[labels_B]
            return {
                "objective": minimised_B,
                "loss": counts_B * nats_B,
                "accuracy": counts_B * right_answers(best_B == labels_B, nats_B),
                "weight": counts_B * jnp.ones_like(nats_B),
            }

        found = sums_of(labels_B)
        if others_B is not None:
            found = jax.tree.map(
                lambda one_B, other_B: share_B * one_B + (1 - share_B) * other_B,
                found,
                sums_of(others_B),
            )
        return {name: jnp.sum(one_B * batch["weights"]) for name, one_B in found.items()}

    def evaluate(self, model: nnx.Module, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        logits_BC = _logits(model, batch, batch.get("image"), train=False, dropout_key=None)
        labels_B, weights_B = batch["label"], batch["weights"]
        losses_B, _ = cross_entropy(logits_BC, labels_B)
        _, best_BK = jax.lax.top_k(logits_BC, min(5, logits_BC.shape[-1]))
        hits_BK = best_BK == labels_B[:, None]
        sums = {
            "loss": jnp.sum(losses_B * weights_B),
            "weight": jnp.sum(weights_B),
            "correct": jnp.sum(right_answers(hits_BK[:, 0], losses_B) * weights_B),
            "examples": jnp.sum(weights_B > 0),
        }
        if logits_BC.shape[-1] > 5:  # of fewer all are right
            any_B = jnp.any(hits_BK, axis=-1)
            sums["correct_top5"] = jnp.sum(right_answers(any_B, losses_B) * weights_B)
        scores_BC = jax.nn.softmax(logits_BC)
        return sums, {
            "label": labels_B,
            "prediction": best_BK[:, 0],
            "probability": jnp.max(scores_BC, axis=-1),
            "scores": scores_BC,
        }

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """`loss` in nats per example; `accuracy` and, of more than five classes, `accuracy_top5` as
        shares of one."""
        metrics = {
            "examples": int(sums["examples"]),
            "loss": sums["loss"] / sums["weight"],
            "accuracy": sums["correct"] / sums["weight"],
        }
        if "correct_top5" in sums:
            metrics["accuracy_top5"] = sums["correct_top5"] / sums["weight"]
        return metrics


def _logits(
    model: nnx.Module,
    batch: Batch,
    images: jax.Array | None,
    *,
    train: bool,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """float32 [B, C], of pictures, of frames or of tokens."""
    if images is None:
        given = {"segments_BT": batch["segments"], "dropout_key": dropout_key}
        if "frames" in batch:
            return model.classify(batch["frames"], train=train, **given)
        return model.classify(batch["tokens"], **given)
    return model(images, train=train, dropout_key=dropout_key).astype(jnp.float32)
