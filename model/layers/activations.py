"""Capture the outputs of the activation functions inside a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_watcher: ContextVar[Callable[[jax.Array], None] | None] = ContextVar("activations", default=None)


@contextmanager
def capture_activations(watcher: Callable[[jax.Array], None]) -> Iterator[None]:
    """Call `watcher` with the output [..., units] of each activation function, in the order of the
    layers, while this context is open. It has the same limits as
    `model.layers.attend.capture_attention`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def captured(x: jax.Array) -> jax.Array:
    """Pass x, the output [..., units] of an activation function, to the watcher of the open
    `capture_activations`, if any, and return x."""
    if (watcher := _watcher.get()) is not None:
        watcher(x)
    return x
