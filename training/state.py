"""The state of a run: everything that a restart needs, as plain nested dictionaries of arrays."""

import functools
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import struct

from parallel.axes import replicated
from training.model_def import ModelDef
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


def initial_state(params: Tree, statistics: Tree, *, optimizer: Optimizer, ema: bool) -> TrainState:
    """Return the state before the first step, for these parameters and batch statistics."""
    trainable = optimizer.moving(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        statistics=statistics,
        optimizer=optimizer.init(trainable),
        # In float32 (`train_step`), and a copy of its own: the step donates both.
        ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32), trainable) if ema else None,
        ema_statistics=jax.tree.map(jnp.copy, statistics) if ema else None,
    )


def create_state(
    model_def: ModelDef, optimizer: Optimizer, *, seed: int, ema: bool
) -> tuple[TrainState, Callable[..., TrainState]]:
    """Return the abstract state with its shardings, and the jitted function that makes a fresh one
    in its shards.

    That function takes the parameters and statistics that are not to be fresh: where one is longer
    or shorter than the model's, as far as both go.
    """

    def initialize(params: Tree = None, statistics: Tree = None) -> TrainState:
        fresh = model_def.graph.initialize(jax.random.key(seed))
        params, statistics = map(_filled, fresh, (params, statistics))
        return initial_state(params, statistics, optimizer=optimizer, ema=ema)

    abstract = jax.eval_shape(
        functools.partial(initial_state, optimizer=optimizer, ema=ema),
        model_def.abstract_params,
        model_def.abstract_statistics,
    )
    shardings = _shardings(model_def, optimizer, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return placed, jax.jit(initialize, out_shardings=shardings)


def _shardings(model_def: ModelDef, optimizer: Optimizer, abstract: TrainState) -> TrainState:
    """Return where each array of `abstract` lies: moments and averages as their parameter does,
    sums over some of its dimensions everywhere."""
    everywhere = replicated(model_def.mesh)
    params, statistics = (
        jax.tree.map(lambda leaf: leaf.sharding, tree)
        for tree in (model_def.abstract_params, model_def.abstract_statistics)
    )
    return TrainState(
        step=everywhere,
        skipped=everywhere,
        params=params,
        statistics=statistics,
        optimizer=beside_parameters(
            abstract.optimizer,
            model_def.abstract_params,
            lambda _, parameter: everywhere if parameter is None else parameter.sharding,
        ),
        ema=None if abstract.ema is None else optimizer.moving(params),
        ema_statistics=None if abstract.ema is None else statistics,
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
