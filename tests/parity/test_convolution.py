"""nn.Conv1d, nn.Conv2d, pooling and nn.BatchNorm2d."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

from model.layers import convolution as layers
from model.layers.short_convolution import DepthwiseConvolution
from tests.parity import compare

SHAPES = [
    {"size": 3},
    {"size": 5, "strides": 2},
    {"size": 3, "dilation": 2},
    {"size": 3, "groups": 2},
    {"size": 3, "groups": 4, "strides": 2, "dilation": 2},
    {"size": 1},
]


def last(x: torch.Tensor) -> torch.Tensor:
    """Channels from the second dimension to the last."""
    return x.movedim(1, -1)


def first(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-1, 1)


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolution(shape, dimensions):
    size, strides = shape["size"], shape.get("strides", 1)
    dilation, groups = shape.get("dilation", 1), shape.get("groups", 1)
    edge = dilation * (size - 1) // 2
    ours = layers.convolution(
        4, 8, kernel_size=(size,) * dimensions, strides=strides, dilation=dilation, groups=groups,
        padding=((edge, edge),) * dimensions, use_bias=True,
        numerics=compare.NUMERICS, rngs=nnx.Rngs(0),
    )  # fmt: skip
    make = {1: nn.Conv1d, 2: nn.Conv2d}[dimensions]
    theirs = make(4, 8, size, stride=strides, dilation=dilation, groups=groups, padding=edge)

    def weights(theirs):
        kernel = np.moveaxis(theirs("weight"), (0, 1), (-1, -2))
        return {"kernel": kernel, "bias": theirs("bias")}

    x = compare.draw(0, 2, *(11, 9)[:dimensions], 4)
    compare.check(
        ours,
        lambda layer, x: layer(x),
        theirs,
        lambda layer, x: last(layer(first(x))),
        weights,
        [x],
    )


@pytest.mark.parametrize("causal", [False, True], ids=["centred", "causal"])
def test_depthwise_convolution_along_a_sequence(causal):
    ours = DepthwiseConvolution(
        6, size=5, causal=causal, axis="embed", numerics=compare.NUMERICS, rngs=nnx.Rngs(0)
    )
    theirs = nn.Conv1d(6, 6, 5, groups=6, padding=4 if causal else 2)

    def weights(theirs):
        return {"kernel": theirs("weight")[:, 0].T, "bias": theirs("bias")}

    compare.check(
        ours,
        lambda layer, x: layer(x)[0],
        theirs,
        lambda layer, x: last(layer(first(x))[..., :9]),
        weights,
        [compare.draw(0, 2, 9, 6)],
    )


POOLS = {
    "max 2": (layers.max_pool, {}, lambda x: functional.max_pool2d(x, 2)),
    "max 3/2": (
        layers.max_pool,
        {"size": 3, "strides": 2, "padding": ((1, 1), (1, 1))},
        lambda x: functional.max_pool2d(x, 3, 2, 1),
    ),
    "global": (layers.global_average_pool, {}, lambda x: functional.adaptive_avg_pool2d(x, 1)),
}


@pytest.mark.parametrize("kind", POOLS)
def test_pooling(kind):
    function, options, theirs = POOLS[kind]
    compare.check(
        nnx.Module(),
        lambda _, x: function(x, **options),
        nn.Module(),
        lambda _, x: last(theirs(first(x))).reshape((2, 4) if kind == "global" else (2, 4, 3, 4)),
        lambda theirs: {},
        [compare.draw(0, 2, 8, 6, 4)],
    )


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_batch_norm(training):
    ours = layers.batch_norm(5, numerics=compare.NUMERICS, rngs=nnx.Rngs(0))
    theirs = nn.BatchNorm2d(5).train(training)
    mean, variance = compare.draw(1, 5), np.abs(compare.draw(2, 5)) + 0.5
    ours.mean[...], ours.var[...] = jnp.asarray(mean), jnp.asarray(variance)
    with torch.no_grad():
        theirs.running_mean.copy_(torch.tensor(mean))
        theirs.running_var.copy_(torch.tensor(variance))

    def call(layer, x):
        y = layer(x, use_running_average=not training)
        return y, layer.mean[...], layer.var[...]

    def their_call(layer, x):
        y = last(layer(first(x)))
        return y, layer.running_mean.clone(), layer.running_var.clone()

    x = 2 * compare.draw(0, 3, 4, 6, 5) + 1

    def only_outputs(layer, x):
        return call(layer, x)[0]

    weights = lambda theirs: {"scale": theirs("weight"), "bias": theirs("bias")}  # noqa: E731
    for one, other in zip(
        call(nnx.clone(ours), x), their_call(theirs, torch.tensor(x)), strict=True
    ):
        compare.close(one, compare.numpy(other), "batch norm as it starts")
    fresh = nn.BatchNorm2d(5).train(training)
    fresh.load_state_dict(theirs.state_dict())
    ours.mean[...] = jnp.asarray(compare.numpy(theirs.running_mean))
    ours.var[...] = jnp.asarray(compare.numpy(theirs.running_var))
    compare.check(ours, only_outputs, fresh, lambda layer, x: their_call(layer, x)[0], weights, [x])
