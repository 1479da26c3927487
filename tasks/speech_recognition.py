"""Speech recognition: predict the labels (text tokens) of a recording, without time stamps.

Axes: B batch, T frames, F mel bands, U positions of the model, L labels, V vocabulary. The last
entry of the vocabulary is the CTC blank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from model.sound import SoundModel
from tasks.task import Batch, Sums


@dataclass(frozen=True)
class SpeechRecognition:
    """Speech recognition by connectionist temporal classification (CTC, Graves et al. 2006).

    A batch contains `frames` float32 [B, T, F], `segments` int32 [B, T] (1 for frames, 0 for
    padding), `labels` int32 [B, L], `label_weights` float32 [B, L] (1 for labels, 0 for padding at
    the end), `weights` float32 [B].

    The probability of the labels is the sum over all their alignments with the model's positions.
    An alignment may repeat labels and insert blanks. Each label needs a position, and two equal
    labels in a row need a blank between them. A recording with too few positions has no alignment:
    its loss is 0, and it is counted in `too_short`.
    """

    extra_tokens: ClassVar[int] = 1
    higher_is_better: ClassVar[frozenset[str]] = frozenset({"exact_match"})

    def loss_sums(self, model: SoundModel, batch: Batch, *, dropout_key: jax.Array | None) -> Sums:
        """Return sums over the batch, without the recordings that are too short for their labels.

        `loss`: the negative log-likelihood in nats.
        `weight`: the number of labels that `loss` covers.
        `too_short`: the number of labels of the recordings that were left out.
        """
        logits_BUV, segments_BU = model.transcribe(
            batch["frames"], segments_BT=batch["segments"], dropout_key=dropout_key, train=True
        )
        nats_B, possible_B = ctc_loss(logits_BUV, segments_BU, batch)
        labels_B = jnp.sum(batch["label_weights"], axis=1) * batch["weights"]
        return {
            "loss": jnp.sum(nats_B * batch["weights"]),
            "weight": jnp.sum(labels_B * possible_B),
            "too_short": jnp.sum(labels_B * ~possible_B),
        }

    def evaluate(self, model: SoundModel, batch: Batch) -> tuple[Sums, dict[str, jax.Array]]:
        logits_BUV, segments_BU = model.transcribe(batch["frames"], segments_BT=batch["segments"])
        nats_B, possible_B = ctc_loss(logits_BUV, segments_BU, batch)
        weights_B, labels_B = batch["weights"], jnp.sum(batch["label_weights"], axis=1)
        sums = {
            "loss": jnp.sum(nats_B * weights_B),
            "weight": jnp.sum(labels_B * weights_B * possible_B),
            "too_short": jnp.sum(weights_B * ~possible_B),
            "examples": jnp.sum(weights_B > 0),
        }
        return sums, {"loss": nats_B, "labels": labels_B}

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Return `examples`, `loss` in nats per label, and `too_short` (unless 0), the number of
        recordings that are too short and so excluded. Recordings without labels add to the loss."""
        metrics = {
            "examples": int(sums["examples"]),
            "loss": sums["loss"] / max(sums["weight"], 1.0),
        }
        too_short = int(sums["too_short"])
        return metrics | ({"too_short": too_short} if too_short else {})

    def text_metrics(
        self, hypotheses: Sequence[str], references: Sequence[str]
    ) -> dict[str, float]:
        """Compare transcripts with the references. Returns `exact_match` from 0 to 1, and jiwer's
        `wer` and `cer`: errors per word and per character of the references (0.03 is 3 %; more than
        1 is possible)."""
        import jiwer

        hypotheses, references = list(hypotheses), list(references)
        right = sum(one == other for one, other in zip(hypotheses, references, strict=True))
        return {
            "wer": jiwer.wer(references, hypotheses),
            "cer": jiwer.cer(references, hypotheses),
            "exact_match": right / len(references),
        }


def ctc_loss(
    logits_BUV: jax.Array, segments_BU: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """Return the CTC loss of each row in nats, float32 [B], and whether it is defined, bool [B].

    The loss is the negative log-probability of the row's labels. It is undefined if the row has
    too few positions for its labels; it is then 0, with gradient 0.
    """
    labels_BL, label_weights_BL = batch["labels"], batch["label_weights"]
    alike_BL = (labels_BL[:, 1:] == labels_BL[:, :-1]) * label_weights_BL[:, 1:]
    needed_B = jnp.sum(label_weights_BL, axis=1) + jnp.sum(alike_BL, axis=1)
    real_BU = segments_BU != 0
    possible_B = jnp.sum(real_BU, axis=1) >= needed_B
    nats_B = optax.ctc_loss(
        logits_BUV.astype(jnp.float32),
        1.0 - real_BU,
        labels_BL,
        1.0 - label_weights_BL,
        blank_id=logits_BUV.shape[2] - 1,
    )
    return jnp.where(possible_B, nats_B, 0), possible_B
