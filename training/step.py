"""The state of a run, and one update of it, for every family, modality and sharding."""

import functools
from typing import Any, Self

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
from training.trees import overlay

Tree = Any
_ROUNDING = 2**32 - 1  # folded into a step's key for rounding; micro-batches have 0, 1, ...
Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """The state of a run: all that resuming needs, as nested dictionaries of arrays.

    It holds no random key: each step folds its number into the seed.

    step: batches consumed, which always advances; an int32 scalar. skipped: steps in a row that
    changed nothing (`train_step`); an int32 scalar. statistics: batch statistics of `params`.
    optimizer: its state, for the trainable parameters alone. ema: the averages of the trainable
    parameters, float32; None without `train.ema_decay`. ema_statistics: batch statistics of the
    averaged weights, None where `ema` is; no step changes them, `measure_ema` measures them before
    they are used or saved.
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
        """Return the parameters that the model is used with: averages where there are."""
        return overlay(self.params, self.ema)

    @property
    def weights_statistics(self) -> Tree:
        """Return the batch statistics of `weights`."""
        return self.statistics if self.ema is None else self.ema_statistics

    @property
    def before_skipped(self) -> Self:
        """Return the state before a skipped step, which changed nothing but the counts."""
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
    """One update. State and batch are sharded; the metrics come back replicated.

    A step whose loss, gradient or update is not finite is passed over: nothing changes but the
    counts.

    branch: whether that is done by a branch around the optimizer, or each new value is chosen
    against the old one. An update costs a CPU its memory's time, of which the branch saves a third;
    the host of a GPU would have to wait for the answer. The branch is taken before the update is
    known: where that alone is not finite, all stays but the optimizer's state.

    Parameters and moments in bfloat16 are rounded by chance (`training.rounding`).

    Returns the new state and `loss` (mean over the batch's targets), `weight` (how many targets),
    `learning_rate`, `gradient_norm` (before clipping), `update_ratio` (the norm of what the
    parameters moved by, after rounding, over theirs; 0 of a step that changes nothing), `skipped`
    (steps in a row that were passed over, this one included); and the means of whatever else the
    task sums up.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    moving = optimizer.moving(state.params)
    point = optimizer.point(moving, state.optimizer)
    gradients, statistics, sums = _accumulate(point, state, batch, key, task, graph, accumulation)
    targets = _targets(sums)
    means = {name: total / targets for name, total in sums.items() if name != "weight"}
    learning_rate = schedule(state.step)
    gradients = optax.tree.cast(gradients, jnp.float32)
    gradient_norm = optax.tree.norm(gradients)
    norm = optax.tree.norm(optax.tree.cast(moving, jnp.float32))

    def move():
        optimizer_key, rounding_key = jax.random.split(jax.random.fold_in(key, _ROUNDING))
        direction, factor, optimizer_state = optimizer.update(
            gradients, state.optimizer, moving, learning_rate, optimizer_key
        )
        exact = jax.tree.map(lambda p, d: p + factor * d, moving, direction)
        rounded = round_stochastically(exact, moving, rounding_key)
        # In units of the factor: the squares of a far move are beyond float32 before it is.
        unit = jnp.where(factor == 0, 1.0, jnp.abs(factor))
        moves = jax.tree.map(lambda new, p: (new - p.astype(jnp.float32)) / unit, rounded, moving)
        change = unit * optax.tree.norm(moves)
        kept = functools.partial(jnp.where, jnp.isfinite(change))
        moved = jax.tree.map(kept, rounded, moving)
        measured = jax.tree.map(kept, statistics, state.statistics)
        ema = state.ema
        if ema_decay is not None:
            # In float32, whatever the parameters are: small steps would be rounded away.
            ema = jax.tree.map(lambda e, p: e + (1 - ema_decay) * (p - e), state.ema, moved)
        return (moved, measured, optimizer_state, ema), change / jnp.maximum(norm, 1e-30)

    def stay():
        current = (moving, state.statistics, state.optimizer, state.ema)
        return current, jnp.zeros(())

    # A poisoned batch changes nothing but the count of batches. With the parameters' norm among
    # what is asked, it has been read before they are written in place: else XLA copies them first.
    accept = jnp.all(jnp.isfinite(jnp.stack([means["loss"], gradient_norm, norm])))
    if branch:
        state_after, update_ratio = jax.lax.cond(accept, move, stay)
        accept &= jnp.isfinite(update_ratio)
    else:
        proposed = move()
        accept &= jnp.isfinite(proposed[-1])
        choose = functools.partial(jnp.where, accept)
        state_after, update_ratio = jax.tree.map(choose, proposed, stay())
    moved, statistics, optimizer_state, ema = state_after
    new_state = TrainState(
        step=state.step + 1,
        skipped=jnp.where(accept, 0, state.skipped + 1),
        params=overlay(state.params, moved),
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
    """Adds the batch statistics of training batch `number` to the `mean` of those of `count`
    batches; returns both. Running statistics have no part in it, nor has a batch of which they are
    not finite. What is random in the model is drawn as in the step of that batch.
    """
    module = graph.bind(params, mean)
    forget_running_statistics(module)
    key = jax.random.fold_in(jax.random.key(seed), number)
    task.loss_sums(module, batch, dropout_key=jax.random.fold_in(key, 0))
    own = graph.statistics_of(module)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(own)]))
    count = count + finite
    share = 1 / jnp.maximum(count, 1)
    kept = functools.partial(jnp.where, finite)
    return jax.tree.map(lambda m, s: kept((1 - share) * m + share * s, m), mean, own), count


def _accumulate(
    point: Tree,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    task: Task,
    graph: ModelGraph,
    count: int,
) -> tuple[Tree, Tree, Metrics]:
    """Gradient of the objective's mean over the batch's targets, new batch statistics, and sums,
    over `count` micro-batches.

    It is taken at `point`, which has the parameters that move; what is frozen has none.
    Micro-batch j takes the rows j, j + count, ...: each device's rows stay where they are. Their
    sums are divided by the targets of the whole batch afterwards, so that the gradient equals
    the large batch's however the targets are spread. Each micro-batch is normalised by its own
    batch statistics, and the running ones move once, by the mean of what each would make of them.
    """

    def gradient(rows: Batch, index: jax.Array, *, mean: bool) -> tuple[Tree, Tree, Metrics]:
        def loss(point: Tree) -> tuple[jax.Array, tuple[Tree, Metrics]]:
            module = graph.bind(overlay(state.params, point), state.statistics)
            sums = task.loss_sums(module, rows, dropout_key=jax.random.fold_in(key, index))
            objective = sums.pop("objective", sums["loss"])
            return objective, (graph.statistics_of(module), sums)

        objective, backward, (moved, sums) = jax.vjp(loss, point, has_aux=True)
        # Where the backward pass begins, a division costs nothing.
        begin = 1 / _targets(sums) if mean else jnp.ones(())
        (gradients,) = backward(begin.astype(objective.dtype))
        return gradients, moved, sums

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
    """How many targets there were, 1 where there were none: what sums are divided by."""
    return jnp.where(sums["weight"] > 0, sums["weight"], 1.0)
