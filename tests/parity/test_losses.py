"""nn.LayerNorm, nn.CrossEntropyLoss and nn.CTCLoss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from model.layers.norms import norm
from tasks.losses import cross_entropy
from tasks.speech_recognition import ctc_loss
from tests.parity import compare


def test_layer_norm():
    compare.check(
        norm(
            "layer_norm",
            9,
            epsilon=1e-5,
            use_bias=True,
            numerics=compare.NUMERICS,
            rngs=nnx.Rngs(0),
        ),
        lambda layer, x: layer(x),
        nn.LayerNorm(9),
        lambda layer, x: layer(x),
        lambda theirs: {"scale": theirs("weight"), "bias": theirs("bias")},
        [3 * compare.draw(0, 4, 7, 9) + 1],
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True], ids=["alike", "weighted"])
def test_cross_entropy_of_targets_of_which_some_are_ignored(smoothing, weighted):
    logits, targets = 2 * compare.draw(0, 12, 5), np.arange(12) % 5
    targets[[3, 7]] = -100
    class_weights = np.array([0.5, 1, 2, 1.5, 0.25], np.float32) if weighted else None
    theirs = nn.CrossEntropyLoss(
        weight=None if class_weights is None else torch.tensor(class_weights),
        label_smoothing=smoothing,
    )

    def ours(logits):
        there = targets >= 0
        labels = jnp.where(there, targets, 0)
        of_class = None if class_weights is None else jnp.asarray(class_weights)
        _, minimised = cross_entropy(
            logits, labels, label_smoothing=smoothing, class_weights=of_class
        )
        counts = there if of_class is None else there * of_class[labels]
        return jnp.sum(minimised * there) / jnp.sum(counts)

    tensor = torch.tensor(logits, requires_grad=True)
    loss = theirs(tensor, torch.tensor(targets))
    loss.backward()
    value, gradient = jax.value_and_grad(ours)(jnp.asarray(logits))
    compare.close(value, compare.numpy(loss), "loss")
    compare.close(gradient, compare.numpy(tensor.grad), "gradient")


def test_ctc_of_recordings_and_transcripts_of_many_lengths():
    """Repeated labels, none at all, as many as there is room for, and one too many."""
    logits = 2 * compare.draw(0, 5, 9, 6)  # the blank is 5
    frames, counts = np.array([9, 9, 7, 4, 4]), np.array([4, 3, 0, 4, 4])
    labels = np.array([[0, 1, 1, 4], [2, 2, 2, 0], [0, 0, 0, 0], [3, 1, 3, 0], [3, 3, 1, 0]])
    batch = {"labels": labels, "label_weights": (np.arange(4) < counts[:, None]).astype(np.float32)}
    segments = (np.arange(9) < frames[:, None]).astype(np.int32)
    theirs = nn.CTCLoss(blank=5, reduction="none", zero_infinity=True)

    tensor = torch.tensor(logits, requires_grad=True)
    log_probs = tensor.log_softmax(-1).transpose(0, 1)
    losses = theirs(log_probs, *map(torch.tensor, (labels, frames, counts)))
    losses.sum().backward()

    def ours(logits):
        nats, possible = ctc_loss(logits, segments, batch)
        return jnp.sum(nats), (nats, possible)

    gradient, (nats, possible) = jax.jit(jax.grad(ours, has_aux=True))(jnp.asarray(logits))
    assert possible.tolist() == [True, True, True, True, False]
    compare.close(nats, compare.numpy(losses), "loss")
    compare.close(gradient, compare.numpy(tensor.grad), "gradient")
