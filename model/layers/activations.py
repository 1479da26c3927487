"""Capture the outputs of the activation functions inside a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_watcher: ContextVar[Callable[[jax.Array], None] | None] = ContextVar("activations", default=None)


@contextmanager
def capture_activations(watcher: Callable[[jax.Array], None]) -> Iterator[None]:
    """Call `watcher` with the output [..., units] of each activation function, in the order of the
    layers, while this context is open.

    `watcher` is called during tracing, with tracers; to get their values, return them from the
    traced function. Scanned and rematerialised layers can't be captured.
    """
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def captured(x: jax.Array) -> jax.Array:
    """Return x, the output [..., units] of an activation function. If a `capture_activations`
    context is open, call its watcher with x first."""
    if (watcher := _watcher.get()) is not None:
        watcher(x)
    return x
