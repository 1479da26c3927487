"""Logical axis names: how a layer says what its dimensions are, without knowing any mesh.

Parameters carry their names as metadata under the key `AXES`; activations are named where they
are made, by `constrain`. Which mesh axis a name lies on is decided elsewhere, by one table of
rules. Names in use:

    batch, length, width                 activations
    embed                                the model width as a dimension of a parameter
    mlp, heads, kv_heads, head_dim       feed-forward and attention, parameters and activations
    recurrent                            the units of a recurrence, parameters and activations
    channels_in, channels_out            convolutions
    vocabulary, classes, positions       embeddings and heads
    norm                                 scales, biases and statistics of normalisation
    layers                               the stacked copies of a scanned layer
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

AXES = "axes"

Constraint = Callable[[jax.Array, tuple[str | None, ...]], jax.Array]

_constraint: ContextVar[Constraint | None] = ContextVar("activation_sharding", default=None)


def named(*axes: str | None) -> dict[str, tuple[str | None, ...]]:
    """Metadata of a parameter: one logical name, or None, for each of its dimensions."""
    return {AXES: axes}


@contextmanager
def activation_sharding(constraint: Constraint) -> Iterator[None]:
    """While this context is open, `constrain(x, *axes)` in a layer is `constraint(x, axes)`.

    It acts when a function is traced, so it has to be open around the first call of a jitted
    function (or inside it).
    """
    token = _constraint.set(constraint)
    try:
        yield
    finally:
        _constraint.reset(token)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Name the dimensions of an activation; x itself where no `activation_sharding` is open."""
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of {x.ndim} dimensions")
    constraint = _constraint.get()
    return x if constraint is None else constraint(x, axes)
