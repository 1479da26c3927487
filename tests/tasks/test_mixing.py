"""Mixup and CutMix: what a mixed picture is made of, and that its share says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.mixing import mix_images
from tasks.registry import build

B, SIZE = 64, 16
LABELS = jnp.arange(B)
IMAGES = jnp.broadcast_to(jnp.arange(B, dtype=jnp.uint8)[:, None, None, None], (B, SIZE, SIZE, 1))
KEY = jax.random.key(0)
ALL = jnp.ones(B)


def test_mixup_blends_whole_pictures_by_their_share():
    mixed, others, share = mix_images(IMAGES, LABELS, ALL, KEY, mixup=0.5, cutmix=0.0)
    np.testing.assert_array_equal(others, LABELS[::-1])
    expected = (share * LABELS + (1 - share) * others) / 255
    np.testing.assert_allclose(
        mixed, expected[:, None, None, None] * jnp.ones_like(mixed), atol=1e-6
    )
    assert 0.4 < share.mean() < 0.6 and share.min() < 0.1 and share.max() > 0.9


def test_cutmix_replaces_one_rectangle_of_which_the_share_is_what_is_left():
    mixed, others, share = mix_images(IMAGES, LABELS, ALL, KEY, mixup=0.0, cutmix=1.0)
    values = np.rint(np.asarray(mixed[..., 0]) * 255)
    for row in range(B):
        own = values[row] == LABELS[row]
        assert (own | (values[row] == others[row])).all()
        assert own.mean() == pytest.approx(float(share[row]), abs=1e-6)
        rows, columns = (~own).any(axis=1).sum(), (~own).any(axis=0).sum()
        assert (~own).sum() == rows * columns
    assert 0.3 < share.mean() < 0.8


@pytest.mark.parametrize("how", [{"mixup": 0.5, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_with_what_does_not_count_nothing_is_mixed(how):
    weights = ALL.at[3].set(0)
    mixed, _, share = mix_images(IMAGES, LABELS, weights, KEY, **how)
    partner = B - 1 - 3
    np.testing.assert_allclose(mixed[partner], IMAGES[partner] / 255, rtol=1e-6)
    assert share[partner] == 1 and share[3] < 1


def test_of_both_each_row_has_one():
    mixed, _, _ = mix_images(IMAGES, LABELS, ALL, KEY, mixup=0.5, cutmix=1.0)
    spread = np.asarray(mixed.std(axis=(1, 2, 3))) > 1e-6
    assert 10 < spread.sum() < B - 10


def test_the_loss_is_that_of_both_labels_by_their_share():
    logits = jax.random.normal(jax.random.key(1), (B, B))
    task = build("classification", label_smoothing=0.0, mixup=0.5)
    batch = {"image": IMAGES, "label": LABELS, "weights": jnp.ones(B)}
    sums = task.loss_sums(lambda image, **_: logits, batch, dropout_key=KEY)
    _, others, share = mix_images(
        IMAGES, LABELS, ALL, jax.random.split(KEY)[1], mixup=0.5, cutmix=0.0
    )
    log = jax.nn.log_softmax(logits)
    expected = -jnp.sum(share * log[LABELS, LABELS] + (1 - share) * log[LABELS, others])
    np.testing.assert_allclose(sums["objective"], expected, rtol=1e-5)
    np.testing.assert_allclose(sums["weight"], B, rtol=1e-6)


def test_class_weights_count_examples_and_not_the_reported_metrics():
    logits, labels = jax.random.normal(KEY, (6, 3)), jnp.array([0, 0, 1, 1, 2, 2])
    batch = {"image": jnp.zeros((6, 2, 2, 1)), "label": labels, "weights": jnp.ones(6)}
    model = lambda image, **_: logits  # noqa: E731
    plain = build("classification", label_smoothing=0.0)
    weighted = build("classification", label_smoothing=0.0, class_weights=(1.0, 3.0, 0.5))
    sums = weighted.loss_sums(model, batch, dropout_key=KEY)
    counts = jnp.array([1, 1, 3, 3, 0.5, 0.5])
    nats = -jax.nn.log_softmax(logits)[jnp.arange(6), labels]
    np.testing.assert_allclose(sums["weight"], counts.sum())
    np.testing.assert_allclose(sums["objective"], (counts * nats).sum(), rtol=1e-6)
    np.testing.assert_array_equal(
        plain.evaluate(model, batch)[0]["loss"], weighted.evaluate(model, batch)[0]["loss"]
    )
