"""What units put out after their activation, for whoever looks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_watcher: ContextVar[Callable[[jax.Array], None] | None] = ContextVar("activations", default=None)


@contextmanager
def capture_activations(watcher: Callable[[jax.Array], None]) -> Iterator[None]:
    """While this context is open, `watcher` gets what comes out of each activation of a layer,
    [..., units], in their order; with the limits of `capture_attention`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def captured(x: jax.Array) -> jax.Array:
    """x, which came out of an activation [..., units]."""
    if (watcher := _watcher.get()) is not None:
        watcher(x)
    return x
