"""Functions of a model compiled for a mesh."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from model.layers.sharding import activation_sharding
from parallel.axes import activation_placement


def on_mesh(
    function: Callable[..., Any],
    graph: nnx.GraphDef,
    *,
    mesh: Mesh,
    rules: Mapping[str, Sequence[str]],
    **options: Any,
) -> Callable[..., Any]:
    """Return `function(module, ...)` as a jitted function of the module's arrays and the same other
    arguments.

    The model lays its activations out on `mesh`. `options` go to `jax.jit`; the arrays are
    argument 0.
    """
    placement = activation_placement(mesh, rules)

    def bound(arrays, *arguments):
        with activation_sharding(placement):
            return function(nnx.merge(graph, arrays), *arguments)

    return jax.jit(bound, **options)


def rounded_up(count: int) -> int:
    """Return the smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
