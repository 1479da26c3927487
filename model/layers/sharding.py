"""Logical axis names of parameters and activations; layers do not depend on a mesh.

Each parameter stores its names as metadata under the key `AXES`. `constrain` applies names to an
activation. The table `config.mesh.rules` maps each name to mesh axes (`parallel/axes.py`).

The names:

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
    """Return a parameter's metadata. `axes`: a logical name or None for each dimension."""
    return {AXES: axes}


@contextmanager
def activation_sharding(placement: Placement) -> Iterator[None]:
    """Shard activations by `placement(axes, shape)` while this context is open.

    The context takes effect during tracing: open it around the first call of a jitted function, or
    inside that function.
    """
    token = _placement.set(placement)
    try:
        yield
    finally:
        _placement.reset(token)


def placement(axes: Axes, shape: tuple[int, ...]) -> NamedSharding | None:
    """Return the sharding of an array with these axis names; None on a single device, or if no
    `activation_sharding` context is open."""
    place = _placement.get()
    sharding = None if place is None else place(axes, shape)
    return None if sharding is None or sharding.mesh.size == 1 else sharding


def platform() -> str | None:
    """Return the platform of the current `activation_sharding` context: "cpu", "gpu" or "tpu"; None
    if no context is open."""
    place = _placement.get()
    return None if place is None else place((), ()).mesh.devices.flat[0].platform


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrain the sharding of an activation by its axis names.

    Returns x itself if no `activation_sharding` context is open. Raises ValueError if the number of
    names is not the number of dimensions.
    """
    if len(axes) != x.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of {x.ndim} dimensions")
    sharding = placement(axes, x.shape)
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)
