"""Logical axis names of parameters and activations; layers do not depend on a mesh.

Parameters carry the names as metadata under the key `AXES`; activations get them by `constrain`.
The table `config.mesh.rules` maps each name to mesh axes (`parallel/axes.py`). The names in use:

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
from typing import Any

import jax
from jax.sharding import NamedSharding

AXES = "axes"

Axes = tuple[str | None, ...]
Placement = Callable[[Axes, tuple[int, ...]], NamedSharding]

_placement: ContextVar[Placement | None] = ContextVar("activation_sharding", default=None)


def named(*axes: str | None) -> dict[str, Any]:
    """Return the metadata of a parameter: a logical name, or None, for each dimension."""
    return {AXES: axes}


@contextmanager
def activation_sharding(placement: Placement) -> Iterator[None]:
    """Shard activations by `placement(axes, shape)` while this context is open.

    It takes effect during tracing, so it has to be open around the first call of a jitted function,
    or inside it.
    """
    token = _placement.set(placement)
    try:
        yield
    finally:
        _placement.reset(token)


def placement(axes: Axes, shape: tuple[int, ...]) -> NamedSharding | None:
    """Return the sharding of an array by its axis names; None on a single device, and if no
    `activation_sharding` is open."""
    place = _placement.get()
    sharding = None if place is None else place(axes, shape)
    return None if sharding is None or sharding.mesh.size == 1 else sharding


def platform() -> str | None:
    """Return the platform of the devices in the open `activation_sharding`: "cpu", "gpu" or "tpu";
    None if none is open."""
    place = _placement.get()
    return None if place is None else place((), ()).mesh.devices.flat[0].platform


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Shard an activation by its axis names. If no `activation_sharding` is open, return x itself.
    ValueError: the number of names is not the number of dimensions."""
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of {x.ndim} dimensions")
    sharding = placement(axes, x.shape)
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)
