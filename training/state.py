"""The state of a run: everything that a restart needs, as plain nested dictionaries of arrays."""

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jax.sharding import Mesh

from model.architectures import build
from model.layers.sharding import AXES
from parallel.axes import Rules, named_sharding, replicated
from training.optimizers import Optimizer, beside_parameters
from training.trees import flat, nested, overlay

Tree = Any


@struct.dataclass
class TrainState:
    """Parameters and what moves them. No random key: each step folds its number into the seed.

    `step` counts batches consumed and always advances; `skipped` counts the steps in a row that
    were passed over (`train_step`). Both int32 scalars. `ema`, in float32, is None where
    `train.ema_decay` is not set. Of what is frozen, neither `ema` nor `optimizer` has anything.
    `ema_statistics`, None where `ema` is, are the batch statistics of the averaged weights: no step
    moves them, `measure_ema` measures them before they are used or saved.
    """

    step: jax.Array
    skipped: jax.Array
    params: Tree
    statistics: Tree
    optimizer: Tree
    ema: Tree | None
    ema_statistics: Tree | None

    @property
    def weights(self) -> Tree:
        """What the model is used with: the parameters, where there are averages these."""
        return overlay(self.params, self.ema)

    @property
    def weights_statistics(self) -> Tree:
        """Return the batch statistics of `weights`."""
        return self.statistics if self.ema is None else self.ema_statistics

    @property
    def before_skipped(self) -> Self:
        """What a step without a finite loss or gradient began with: it moved nothing but the
        counts."""
        return self.replace(step=self.step - 1, skipped=self.skipped - 1)


class ModelDef:
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


def initial_state(
    template: ModelDef,
    optimizer: Optimizer,
    *,
    seed: int,
    ema: bool,
    params: Tree = None,
    statistics: Tree = None,
) -> TrainState:
    """A fresh state; to be jitted with `out_shardings`, so that it is born in its shards.

    `params`, `statistics`: those that take the place of fresh ones; where one is longer or
    shorter, as far as both go.
    """
    fresh = template.initialize(jax.random.key(seed))
    params, statistics = map(_filled, fresh, (params, statistics))
    moving = optimizer.moving(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        statistics=statistics,
        optimizer=optimizer.init(moving),
        # In float32 (`train_step`), and a copy of its own: the step donates both.
        ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32), moving) if ema else None,
        ema_statistics=jax.tree.map(jnp.copy, statistics) if ema else None,
    )


def state_shardings(
    template: ModelDef,
    optimizer: Optimizer,
    abstract: TrainState,
    *,
    mesh: Mesh,
    rules: Rules,
) -> TrainState:
    """For each array of `abstract` where it lies: moments and averages as their parameter does,
    sums over some of its dimensions everywhere."""
    everywhere = replicated(mesh)
    placed = jax.tree.map(
        lambda leaf, axes: jax.ShapeDtypeStruct(
            leaf.shape,
            leaf.dtype,
            sharding=named_sharding(axes, leaf.shape, mesh=mesh, rules=rules),
        ),
        abstract.params,
        template.axes(),
    )
    params = jax.tree.map(lambda leaf: leaf.sharding, placed)
    statistics = jax.tree.map(lambda _: everywhere, abstract.statistics)
    return TrainState(
        step=everywhere,
        skipped=everywhere,
        params=params,
        statistics=statistics,
        optimizer=beside_parameters(
            abstract.optimizer,
            placed,
            lambda _, parameter: everywhere if parameter is None else parameter.sharding,
        ),
        ema=None if abstract.ema is None else optimizer.moving(params),
        ema_statistics=None if abstract.ema is None else statistics,
    )


def create_state(
    template: ModelDef,
    optimizer: Optimizer,
    *,
    seed: int,
    ema: bool,
    mesh: Mesh,
    rules: Rules,
) -> tuple[TrainState, Callable[..., TrainState]]:
    """The abstract state with its shardings, and the function that makes it in its shards; it takes
    the `params` and `statistics` that a run does not begin fresh."""

    def initialize(params: Tree = None, statistics: Tree = None) -> TrainState:
        return initial_state(
            template, optimizer, seed=seed, ema=ema, params=params, statistics=statistics
        )

    abstract = jax.eval_shape(initialize)
    shardings = state_shardings(template, optimizer, abstract, mesh=mesh, rules=rules)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return placed, jax.jit(initialize, out_shardings=shardings)


def make_model_def(
    architecture: str,
    hyperparameters: dict[str, Any],
    *,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
) -> ModelDef:
    """The template of a registered architecture."""
    return ModelDef(
        lambda rngs: build(
            architecture, dtype=dtype, param_dtype=param_dtype, rngs=rngs, **hyperparameters
        )
    )


def _filled(fresh: Tree, given: Tree) -> Tree:
    """`fresh` with the leaves of `given`, as far as both go, in its own dtypes."""
    leaves = flat(fresh)
    for name, leaf in flat(given).items():
        there = leaves[name]
        common = tuple(map(slice, map(min, leaf.shape, there.shape)))
        whole = leaf.shape == there.shape
        leaf = leaf.astype(there.dtype)
        leaves[name] = leaf if whole else there.at[common].set(leaf[common])
    return nested(leaves)


def _nested(variables: Any, value: Callable[[Any], Any] = lambda variable: variable[...]) -> Tree:
    """Nested dictionaries with string keys from (path, variable) pairs."""
    return nested({".".join(map(str, path)): value(leaf) for path, leaf in variables})


def _lookup(tree: Tree, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[str(part)]
    return tree
