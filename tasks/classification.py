"""Classification: predict one label for each example."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from tasks.losses import cross_entropy, nan_unless_finite
from tasks.mixing import mix_images
from tasks.task import Batch, Sums


@dataclass(frozen=True)
class Classification:
    """The task of classifying images, texts or recordings.

    A batch contains `image` uint8 [B, H, W, C], or `tokens` and `segments` int32 [B, T], or
    `frames` float32 [B, T, F] and `segments` int32 [B, T]; and `label` int32 [B], `weights` float32
    [B].

    `class_weights`: the weight of each class in training; () for equal weights.
    `label_smoothing`: as in `tasks.losses.cross_entropy`.
    `mixup`, `cutmix`: as in `tasks.mixing.mix_images`.
    """

    label_smoothing: float
    class_weights: tuple[float, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    extra_tokens: ClassVar[int] = 0
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"accuracy", "accuracy_top5"})

    def loss_sums(self, model: nnx.Module, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        assert dropout_key is not None
        model_key, mix_key = jax.random.split(dropout_key)
        images = batch.get("image")
        labels_B, others_B, share_B = batch["label"], None, None
        if images is not None and (self.mixup or self.cutmix):
            images, others_B, share_B = mix_images(
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

        def losses_of(labels_B: jax.Array) -> Sums:
            nats_B, objective_B = cross_entropy(
                logits_BC,
                labels_B,
                label_smoothing=self.label_smoothing,
                class_weights=class_weights_C,
            )
            counts_B = 1.0 if class_weights_C is None else class_weights_C[labels_B]
            return {
                "objective": objective_B,
                "loss": counts_B * nats_B,
                "accuracy": counts_B * nan_unless_finite(best_B == labels_B, nats_B),
                "weight": counts_B * jnp.ones_like(nats_B),
            }

        losses = losses_of(labels_B)
        if others_B is not None and share_B is not None:
            losses = jax.tree.map(
                lambda one_B, other_B: share_B * one_B + (1 - share_B) * other_B,
                losses,
                losses_of(others_B),
            )
        return {name: jnp.sum(one_B * batch["weights"]) for name, one_B in losses.items()}

    def evaluate(self, model: nnx.Module, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        logits_BC = _logits(model, batch, batch.get("image"), train=False, dropout_key=None)
        labels_B, weights_B = batch["label"], batch["weights"]
        losses_B, _ = cross_entropy(logits_BC, labels_B)
        _, best_BK = jax.lax.top_k(logits_BC, min(5, logits_BC.shape[-1]))
        hits_BK = best_BK == labels_B[:, None]
        sums = {
            "loss": jnp.sum(losses_B * weights_B),
            "weight": jnp.sum(weights_B),
            "correct": jnp.sum(nan_unless_finite(hits_BK[:, 0], losses_B) * weights_B),
            "examples": jnp.sum(weights_B > 0),
        }
        if logits_BC.shape[-1] > 5:  # With at most five classes, this accuracy is always 1.
            any_B = jnp.any(hits_BK, axis=-1)
            sums["correct_top5"] = jnp.sum(nan_unless_finite(any_B, losses_B) * weights_B)
        scores_BC = jax.nn.softmax(logits_BC)
        return sums, {
            "label": labels_B,
            "prediction": best_BK[:, 0],
            "probability": jnp.max(scores_BC, axis=-1),
            "scores": scores_BC,
        }

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Return `examples`, `loss` in nats per example and `accuracy` from 0 to 1; with more than
        five classes also `accuracy_top5`."""
        metrics = {
            "examples": int(sums["examples"]),
            "loss": sums["loss"] / sums["weight"],
            "accuracy": sums["correct"] / sums["weight"],
        }
        if "correct_top5" in sums:
            metrics["accuracy_top5"] = sums["correct_top5"] / sums["weight"]
        return metrics


def _logits(
    model: Any,
    batch: Batch,
    images: jax.Array | None,
    *,
    train: bool,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Return the model's logits for images, frames or tokens, float32 [B, C]."""
    if images is None:
        inputs = {"segments_BT": batch["segments"], "dropout_key": dropout_key}
        if "frames" in batch:
            return model.classify(batch["frames"], train=train, **inputs)
        return model.classify(batch["tokens"], **inputs)
    return model(images, train=train, dropout_key=dropout_key).astype(jnp.float32)
