"""Functions compiled for a mesh."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from model.layers.sharding import activation_sharding
from parallel.axes import Rules, activation_placement


def compile_for_mesh(
    step: Callable[..., Any], *, mesh: Mesh, rules: Rules, **jit_options: Any
) -> Callable[..., Any]:
    """Return `jax.jit(step)` whose model lays its activations out on `mesh`."""
    placement = activation_placement(mesh, rules)

    def traced(*arguments):
        with activation_sharding(placement):
            return step(*arguments)

    return jax.jit(traced, **jit_options)
