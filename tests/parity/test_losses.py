"""nn.LayerNorm and nn.CrossEntropyLoss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from model.layers.norms import norm
from tasks.losses import cross_entropy
from tests.parity import compare


def test_layer_norm():
    compare.check(
        norm("layer_norm", 9, epsilon=1e-5, use_bias=True, **compare.NUMBERS, rngs=nnx.Rngs(0)),
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
