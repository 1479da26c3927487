"""A model without its arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.architectures import build
from model.layers.sharding import AXES
from training.trees import nested

Tree = Any


class ModelGraph:
    """A model without its arrays: its graph, and path, shape, dtype and axes of each variable.

    `nnx.split` is done once, here; inside a jitted step `bind` makes the module from plain
    dictionaries, and `statistics_of` reads back what a training forward changed.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self._graph, params, rest = nnx.split(
            nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...
        )
        self._params = dict(nnx.to_flat_state(params))
        self._statistics = dict(nnx.to_flat_state(rest))

    def initialize(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters and batch statistics of a fresh model, as nested dictionaries."""
        _, params, rest = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        return _nested(nnx.to_flat_state(params)), _nested(nnx.to_flat_state(rest))

    def bind(self, params: Tree, statistics: Tree) -> nnx.Module:
        """The module with these arrays."""
        state = [
            (path, variable.replace(_lookup(tree, path)))
            for tree, variables in ((params, self._params), (statistics, self._statistics))
            for path, variable in variables.items()
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(state))

    def statistics_of(self, module: nnx.Module) -> Tree:
        """The batch statistics that `module` holds now."""
        return _nested(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param))))

    def axes(self) -> Tree:
        """The logical axes of each parameter, in the shape of the parameters' tree."""
        return _nested(
            [(path, variable.get_metadata()[AXES]) for path, variable in self._params.items()],
            value=lambda axes: Axes(axes),
        )


class Axes(tuple):
    """A tuple of logical names that JAX's tree functions take for a leaf."""


def make_model_graph(
    architecture: str,
    hyperparameters: dict[str, Any],
    *,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
) -> ModelGraph:
    """Return the graph of a registered architecture."""
    return ModelGraph(
        lambda rngs: build(
            architecture, dtype=dtype, param_dtype=param_dtype, rngs=rngs, **hyperparameters
        )
    )


def _nested(variables: Any, value: Callable[[Any], Any] = lambda variable: variable[...]) -> Tree:
    """Nested dictionaries with string keys from (path, variable) pairs."""
    return nested({".".join(map(str, path)): value(leaf) for path, leaf in variables})


def _lookup(tree: Tree, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[str(part)]
    return tree
