"""Ours and PyTorch's layer with the same weights: outputs and all gradients, float32."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from model.layers.numerics import Numerics

NUMERICS = Numerics(jnp.float32, jnp.float32)
TOLERANCE = 1e-5

Weights = dict[str, np.ndarray]


def draw(seed: int, *shape: int) -> np.ndarray:
    """Numbers of a standard normal distribution, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as an array."""
    return tensor.detach().numpy()


def load(layer: nnx.Module, weights: Weights) -> nnx.Module:
    """`layer` with `weights`, by dotted paths: one for each of its parameters."""
    state = dict(nnx.to_flat_state(nnx.state(layer, nnx.Param)))
    paths = {".".join(map(str, path)): path for path in state}
    assert set(paths) == set(weights), set(paths) ^ set(weights)
    for name, path in paths.items():
        assert state[path].shape == weights[name].shape, (name, state[path].shape)
        state[path] = state[path].replace(jnp.asarray(weights[name]))
    nnx.update(layer, nnx.from_flat_state(list(state.items())))
    return layer


def check(
    layer: nnx.Module,
    call: Callable[..., Any],
    theirs: torch.nn.Module,
    their_call: Callable[..., Any],
    weights: Callable[[Callable[[str], np.ndarray]], Weights],
    inputs: Sequence[np.ndarray],
) -> None:
    """Outputs and gradients, of every parameter and input, differ by at most `TOLERANCE` of the
    largest number of each.

    `call(layer, *inputs)` and `their_call(theirs, *inputs)` give an array or several. `weights`
    makes our parameters of theirs, which it is given by name: the same function makes our
    gradients of theirs, so that it must be linear.
    """
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape) + 0.1)
    parameters = dict(theirs.named_parameters())
    layer = load(layer, weights(lambda name: numpy(parameters[name])))

    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    their_outputs = _all(their_call(theirs, *tensors))
    cotangents = [draw(7 + n, *output.shape) for n, output in enumerate(their_outputs)]
    pairs = zip(their_outputs, cotangents, strict=True)
    sum((output * torch.tensor(c)).sum() for output, c in pairs).backward()

    graph, state, rest = nnx.split(layer, nnx.Param, ...)

    def function(state, *inputs):
        return _all(call(nnx.merge(graph, state, rest, copy=True), *inputs))

    outputs, backward = jax.vjp(jax.jit(function), state, *map(jnp.asarray, inputs))
    of_state, *of_inputs = backward([jnp.asarray(c) for c in cotangents])

    for ours, output in zip(outputs, their_outputs, strict=True):
        close(ours, numpy(output), "output")
    for ours, tensor in zip(of_inputs, tensors, strict=True):
        close(ours, numpy(tensor.grad), "gradient of an input")
    expected = weights(lambda name: numpy(parameters[name].grad))
    for path, ours in nnx.to_flat_state(of_state):
        name = ".".join(map(str, path))
        close(ours[...], expected[name], f"gradient of {name}")


def close(ours: Any, theirs: np.ndarray, what: str) -> None:
    """Within `TOLERANCE` of the largest number, or of 1 where all are smaller."""
    ours, largest = np.asarray(ours), max(float(np.abs(theirs).max()), 1.0)
    assert ours.shape == theirs.shape, what
    # A bias of the keys moves all scores of a target alike: its gradient is zero.
    assert np.abs(theirs).max() > 1e-3 or what.endswith("key.bias"), f"{what} says nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * largest, err_msg=what)


def _all(result: Any) -> list[Any]:
    return list(result) if isinstance(result, tuple | list) else [result]
