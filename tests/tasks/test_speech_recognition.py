"""The loss of transcripts: the sum over alignments, weights, recordings that are too short."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.registry import build
from tasks.speech_recognition import ctc_loss

B, U, V = 4, 5, 3  # the blank is 2
LOGITS = np.random.default_rng(0).normal(size=(B, U, V)).astype(np.float32)
LENGTHS = [5, 3, 3, 4]
LABELS = [[0, 1, 1], [1, 1], [1, 1, 0], []]  # the third would need four positions
BATCH = {
    "frames": LOGITS,
    "segments": (np.arange(U) < np.array(LENGTHS)[:, None]).astype(np.int32),
    "labels": np.array([row + [0] * (3 - len(row)) for row in LABELS], np.int32),
    "label_weights": np.array(
        [[1] * len(row) + [0] * (3 - len(row)) for row in LABELS], np.float32
    ),
    "weights": np.ones(B, np.float32),
}


class AsGiven:
    """A model that takes the frames for its logits."""

    def transcribe(self, frames, *, segments_BT, dropout_key=None, train=False):
        return frames, segments_BT


def collapsed(path) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != V - 1]


def by_hand(row: int) -> float:
    """The loss as the sum over all alignments."""
    probabilities = jax.nn.softmax(LOGITS[row], axis=-1)
    paths = itertools.product(range(V), repeat=LENGTHS[row])
    total = sum(
        np.prod([probabilities[at, label] for at, label in enumerate(path)])
        for path in paths
        if collapsed(path) == LABELS[row]
    )
    return -np.log(total)


def sums(**changes) -> dict[str, float]:
    task = build("speech_recognition")
    found = task.loss_sums(AsGiven(), BATCH | changes, dropout_key=None)
    return {name: float(value) for name, value in found.items()}


def test_the_loss_is_the_sum_over_all_alignments():
    nats, possible = ctc_loss(jnp.asarray(LOGITS), jnp.asarray(BATCH["segments"]), BATCH)
    np.testing.assert_array_equal(possible, [True, True, False, True])
    for row in (0, 1, 3):
        assert nats[row] == pytest.approx(by_hand(row), rel=1e-5)


def test_a_recording_too_short_for_its_labels_is_counted_and_moves_nothing():
    assert sums()["too_short"] == 3 and sums()["weight"] == 5
    assert sums()["loss"] == pytest.approx(sum(by_hand(row) for row in (0, 1, 3)), rel=1e-5)

    def loss(logits):
        return jnp.sum(ctc_loss(logits, jnp.asarray(BATCH["segments"]), BATCH)[0])

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(LOGITS)))
    assert np.isfinite(gradient).all() and not gradient[2].any() and gradient[0].all()
    assert not gradient[1, 3:].any()  # padding


def test_an_example_of_weight_zero_counts_nothing():
    weights = np.array([1, 0, 1, 1], np.float32)
    assert sums(weights=weights)["weight"] == 3
    without = sum(by_hand(row) for row in (0, 3))
    assert sums(weights=weights)["loss"] == pytest.approx(without, rel=1e-5)
    nothing = sums(segments=np.zeros((B, U), np.int32), weights=np.zeros(B, np.float32))
    assert set(nothing.values()) == {0}


def test_evaluation_is_in_nats_per_label_of_the_split():
    task = build("speech_recognition")
    totals, outputs = task.evaluate(AsGiven(), BATCH)
    metrics = task.summarize({name: float(total) for name, total in totals.items()}, None)
    assert (metrics["examples"], metrics["too_short"]) == (4, 1)
    assert metrics["loss"] == pytest.approx(sums()["loss"] / 5, rel=1e-6)
    np.testing.assert_array_equal(outputs["labels"], [3, 2, 3, 0])
    assert outputs["loss"][2] == 0
