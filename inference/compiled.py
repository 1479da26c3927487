"""Compiles functions of a model, and rounds input sizes up to limit the number of compilations."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from model.layers.sharding import activation_sharding
from parallel.axes import Rules, activation_placement


def compile_for_graph(
    function: Callable[..., Any],
    graph: nnx.GraphDef,
    *,
    mesh: Mesh | None = None,
    rules: Rules | None = None,
    finish: Callable[[nnx.Module, Any], Any] = lambda module, result: result,
    **jit_options: Any,
) -> Callable[..., Any]:
    """Jit `function(module, ...)`. The result takes the arrays of the module instead of the module,
    and the same other arguments.

    graph: the graph of the module, from `nnx.split`.
    mesh, rules: how the model's activations are sharded; None leaves this to XLA.
    finish: called as `finish(module, result)` after `function`, in the same compiled program; what
        it returns becomes the result. By default, the result is unchanged.
    jit_options: options of `jax.jit`; the arrays are argument 0.
    """

    sharded: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    if mesh is not None and rules is not None:
        sharded = partial(activation_sharding, activation_placement(mesh, rules))

    def bound(arrays, *arguments):
        with sharded():
            module = nnx.merge(graph, arrays)
            return finish(module, function(module, *arguments))

    return jax.jit(bound, **jit_options)


class CompiledFunction:
    """A jitted `function(module, ...)`. options: as in `compile_for_graph`.

    It is compiled at the first call, and again for a module with another graph.
    """

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


def rounded_up(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest of `sizes` (in rising order) that is at least `count`; if there is none,
    the smallest such power of two."""
    return next((size for size in sizes if size >= count), next_power_of_two(count))
