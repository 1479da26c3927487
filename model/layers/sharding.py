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
from jax.sharding import NamedSharding

AXES = "axes"

Axes = tuple[str | None, ...]
Placement = Callable[[Axes, tuple[int, ...]], NamedSharding]

_placement: ContextVar[Placement | None] = ContextVar("activation_sharding", default=None)


def named(*axes: str | None) -> dict[str, Axes]:
    """Metadata of a parameter: one logical name, or None, for each of its dimensions."""
    return {AXES: axes}


@contextmanager
def activation_sharding(placement: Placement) -> Iterator[None]:
    """While this context is open, `placement(axes, shape)` says where an activation lies.

    It acts when a function is traced, so it has to be open around the first call of a jitted
    function (or inside it).
    """
    token = _placement.set(placement)
    try:
        yield
    finally:
        _placement.reset(token)


def placement(axes: Axes, shape: tuple[int, ...]) -> NamedSharding | None:
    """Where an array lies whose dimensions have these names; None on one device."""
    where = _placement.get()
    sharding = None if where is None else where(axes, shape)
    return None if sharding is None or sharding.mesh.size == 1 else sharding


def platform() -> str | None:
    """What is compiled for: "cpu", "gpu" or "tpu"; None where no context says it."""
    where = _placement.get()
    return None if where is None else where((), ()).mesh.devices.flat[0].platform


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Name the dimensions of an activation; x itself where no `activation_sharding` is open."""
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of {x.ndim} dimensions")
    sharding = placement(axes, x.shape)
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)
