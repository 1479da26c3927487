"""Capture the outputs of the activation functions inside a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_watcher: ContextVar[Callable[[jax.Array], None] | None] = ContextVar("activations", default=None)


@contextmanager
def capture_activations(watcher: Callable[[jax.Array], None]) -> Iterator[None]:
    """While this context is open, call `watcher` with the output [..., units] of each activation
    function, in the order of the layers. The limits are those of
    `model.layers.attend.capture_attention`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def captured(x: jax.Array) -> jax.Array:
    """Return x, the output [..., units] of an activation function, after showing it to the watcher
    of an open `capture_activations`."""
    if (watcher := _watcher.get()) is not None:
        watcher(x)
    return x
