"""The state of a run and its update step, the same for every model family, modality and
sharding."""

import functools
from typing import Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from model.layers.convolution import forget_running_statistics
from tasks.task import Batch, Task
from training.model_def import ModelGraph
from training.optimizers import Optimizer
from training.rounding import round_stochastically
from training.scalars import Scalars
from training.trees import Tree, overlay

_ROUNDING = 2**32 - 1  # folded into a step's key for rounding; micro-batches have 0, 1, ...
Metrics = dict[str, jax.Array]


class TrainState(struct.PyTreeNode):
    """The state of a run: all that resuming needs, as nested dictionaries of arrays.

    It contains no random key: each step folds its number into the seed.

    step: number of batches consumed, skipped ones included; int32 scalar.
    skipped: number of consecutive skipped steps (`train_step`) up to now; int32 scalar.
    statistics: batch statistics of `params`.
    optimizer: the optimizer's state, for the trainable parameters only.
    ema: float32 averages of the trainable parameters; None without `train.ema_decay`.
    ema_statistics: batch statistics of the averaged weights; None if `ema` is None. Steps do not
        update them: `measure_ema` measures them before they are used or saved.
    """

    step: jax.Array
    skipped: jax.Array
    params: Tree
    statistics: Tree
    optimizer: Tree
    ema: Tree | None
    ema_statistics: Tree | None

    @property
    def eval_params(self) -> Tree:
        """Return the parameters for evaluation: the averages if there are any, else the raw
        values."""
        return overlay(self.params, self.ema)

    @property
    def eval_statistics(self) -> Tree:
        """Return the batch statistics of `eval_params`."""
        return self.statistics if self.ema is None else self.ema_statistics

    @property
    def before_skipped(self) -> Self:
        """Return the state with the counts from before the last step, which must be a skipped
        one."""
        return self.replace(step=self.step - 1, skipped=self.skipped - 1)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    task: Task,
    graph: ModelGraph,
    optimizer: Optimizer,
    schedule: optax.Schedule,
    seed: int,
    accumulation: int,
    ema_decay: float | None,
    branch: bool,
) -> tuple[TrainState, Scalars]:
    """Make one update from one batch. State and batch are sharded; the metrics are replicated.

    A step whose loss, gradient or update is not finite is skipped: it changes only the counts. One
    exception: with `branch`, if only the update is not finite, the optimizer's state and `ema`
    change too, because the branch is taken before the update is known. Parameters and moments in
    bfloat16 are rounded stochastically (`training.rounding`).

    schedule: maps a step to its learning rate.
    accumulation: number of micro-batches.
    ema_decay: decay of the averaged weights; None without averages.
    branch: whether the step branches around the optimizer (`jax.lax.cond`); otherwise it always
        computes the update and then selects each value.

    On CPU, branching saves a third of an update's memory traffic; on GPU, the host would have to
    wait for the condition.

    Returns the new state and the metrics: `loss` (mean over the batch's targets), `weight` (number
    of targets), `learning_rate`, `gradient_norm` (before clipping), `update_ratio` (norm of the
    parameters' change, after rounding, over their norm; 0 for a skipped step, not finite in the
    exception above), `skipped` (consecutive skipped steps, including this one), and the means of
    the task's other sums.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    trainable = optimizer.trainable(state.params)
    point = optimizer.gradient_point(trainable, state.optimizer)
    gradients, statistics, sums = _accumulate(point, state, batch, key, task, graph, accumulation)
    targets = _targets(sums)
    means = {name: total / targets for name, total in sums.items() if name != "weight"}
    learning_rate = schedule(state.step)
    gradients = optax.tree.cast(gradients, jnp.float32)
    gradient_norm = optax.tree.norm(gradients)
    norm = optax.tree.norm(optax.tree.cast(trainable, jnp.float32))

    def update():
        optimizer_key, rounding_key = jax.random.split(jax.random.fold_in(key, _ROUNDING))
        direction, factor, optimizer_state = optimizer.update(
            gradients, state.optimizer, trainable, learning_rate, optimizer_key
        )
        exact = jax.tree.map(lambda p, d: p + factor * d, trainable, direction)
        rounded = round_stochastically(exact, trainable, rounding_key)
        # In units of the factor, as the squares of a large step may overflow float32.
        unit = jnp.where(factor == 0, 1.0, jnp.abs(factor))
        steps = jax.tree.map(
            lambda new, p: (new - p.astype(jnp.float32)) / unit, rounded, trainable
        )
        change = unit * optax.tree.norm(steps)
        if_finite = functools.partial(jnp.where, jnp.isfinite(change))
        updated = jax.tree.map(if_finite, rounded, trainable)
        measured = jax.tree.map(if_finite, statistics, state.statistics)
        ema = state.ema
        if ema_decay is not None:
            # Always in float32: in bfloat16, small steps would be rounded away.
            ema = jax.tree.map(lambda e, p: e + (1 - ema_decay) * (p - e), state.ema, updated)
        return (updated, measured, optimizer_state, ema), change / jnp.maximum(norm, 1e-30)

    def skip():
        current = (trainable, state.statistics, state.optimizer, state.ema)
        return current, jnp.zeros(())

    # The parameters' norm is part of the condition, so that it is read before the parameters are
    # written in place: otherwise XLA copies them first.
    accept = jnp.all(jnp.isfinite(jnp.stack([means["loss"], gradient_norm, norm])))
    if branch:
        state_after, update_ratio = jax.lax.cond(accept, update, skip)
        accept &= jnp.isfinite(update_ratio)
    else:
        proposed = update()
        accept &= jnp.isfinite(proposed[-1])
        choose = functools.partial(jnp.where, accept)
        state_after, update_ratio = jax.tree.map(choose, proposed, skip())
    updated, statistics, optimizer_state, ema = state_after
    new_state = TrainState(
        step=state.step + 1,
        skipped=jnp.where(accept, 0, state.skipped + 1),
        params=overlay(state.params, updated),
        statistics=statistics,
        optimizer=optimizer_state,
        ema=ema,
        ema_statistics=state.ema_statistics,
    )
    return new_state, Scalars.of(
        means
        | {
            "weight": sums["weight"],
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "update_ratio": update_ratio,
            "skipped": new_state.skipped,
        }
    )


def mean_statistics(
    params: Tree,
    mean: Tree,
    count: jax.Array,
    batch: Batch,
    number: jax.Array,
    *,
    task: Task,
    graph: ModelGraph,
    seed: int,
) -> tuple[Tree, jax.Array]:
    """Update `mean`, the mean batch statistics of `count` batches, with training batch `number`.
    Return the new mean and the new count.

    Running statistics are not used. A batch whose statistics are not finite is left out. The
    model's random numbers are the same as in the train step of this batch.
    """
    module = graph.bind(params, mean)
    forget_running_statistics(module)
    key = jax.random.fold_in(jax.random.key(seed), number)
    task.loss_sums(module, batch, dropout_key=jax.random.fold_in(key, 0))
    measured = graph.statistics_of(module)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(measured)]))
    count = count + finite
    share = 1 / jnp.maximum(count, 1)
    if_finite = functools.partial(jnp.where, finite)
    new_mean = jax.tree.map(lambda m, s: if_finite((1 - share) * m + share * s, m), mean, measured)
    return new_mean, count


def _accumulate(
    point: Tree,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    task: Task,
    graph: ModelGraph,
    count: int,
) -> tuple[Tree, Tree, Metrics]:
    """Return the gradient of the objective's mean over the batch's targets, the new batch
    statistics, and the task's sums, computed in `count` micro-batches.

    The gradient is taken at `point`, a tree of the trainable parameters only. Micro-batch j takes
    the rows j, j + count, ..., so that each row stays on its device. The gradients are summed and
    then divided by the number of targets in the whole batch: the result equals the gradient of the
    large batch, however unevenly the targets are spread. Each micro-batch is normalised by its own
    batch statistics; the running statistics change once, by the mean of the micro-batches' changes.
    """

    def gradient(rows: Batch, index: jax.Array, *, mean: bool) -> tuple[Tree, Tree, Metrics]:
        def loss(point: Tree) -> tuple[jax.Array, tuple[Tree, Metrics]]:
            module = graph.bind(overlay(state.params, point), state.statistics)
            sums = task.loss_sums(module, rows, dropout_key=jax.random.fold_in(key, index))
            objective = sums.pop("objective", sums["loss"])
            return objective, (graph.statistics_of(module), sums)

        objective, backward, (statistics, sums) = jax.vjp(loss, point, has_aux=True)
        # The division costs nothing at the start of the backward pass.
        cotangent = 1 / _targets(sums) if mean else jnp.ones(())
        (gradients,) = backward(cotangent.astype(objective.dtype))
        return gradients, statistics, sums

    if count == 1:
        return gradient(batch, jnp.int32(0), mean=True)

    micro = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch
    )

    def add(carry, item):
        index, rows = item
        return jax.tree.map(jnp.add, carry, gradient(rows, index, mean=False)), None

    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(functools.partial(gradient, mean=False), first, jnp.int32(0))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), shapes
    )
    (gradients, summed, sums), _ = jax.lax.scan(add, zeros, (jnp.arange(count), micro))
    targets = _targets(sums)
    gradients = jax.tree.map(lambda gradient: gradient / targets, gradients)
    return gradients, jax.tree.map(lambda x: x / count, summed), sums


def _targets(sums: Metrics) -> jax.Array:
    """Return the number of targets, the divisor of sums; 1 if there are none."""
    return jnp.where(sums["weight"] > 0, sums["weight"], 1.0)
