"""Functions of a model compiled for its graph, and sizes of which there are few."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from parallel.axes import Rules
from training.model_def import compile_for_mesh


def compile_for_graph(
    function: Callable[..., Any],
    graph: nnx.GraphDef,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    **jit_options: Any,
) -> Callable[..., Any]:
    """Return `function(module, ...)` as a jitted function of the module's arrays and the same other
    arguments.

    mesh: where the model lays its activations out, by `rules`; None leaves that to XLA. The arrays
    are argument 0 of `jit_options`.
    """

    def bound(arrays, *arguments):
        return function(nnx.merge(graph, arrays), *arguments)

    if mesh is None:
        return jax.jit(bound, **jit_options)
    assert rules is not None
    return compile_for_mesh(bound, mesh=mesh, rules=rules, **jit_options)


class CompiledFunction:
    """`function(module, ...)`, compiled for the graph of its module; options as in
    `compile_for_graph`. A module with another graph compiles it anew."""

    def __init__(self, function: Callable[..., Any], **options: Any):
        self._function, self._options = function, options
        self._graph: nnx.GraphDef | None = None
        self._compiled: Any = None

    def __call__(self, module: nnx.Module, *arguments: Any) -> Any:
        graph, arrays = nnx.split(module)
        if self._graph != graph:
            self._graph = graph
            self._compiled = compile_for_graph(self._function, graph, **self._options)
        return self._compiled(arrays, *arguments)


def next_power_of_two(count: int) -> int:
    """Return the smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()
