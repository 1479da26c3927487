"""Optimizers, and the choice of an update rule for each parameter."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from configs.schema.config import Config
from model.layers.numerics import BFLOAT16_PRODUCTS
from training.parameters import frozen_names, matrix_of
from training.rounding import round_stochastically
from training.trees import Tree, flat, matching, select

FROZEN = "frozen"
"""The rule of parameters that are not trained."""

_UNDECAYED = ("bias", "scale")
"""Names of parameters without weight decay: biases and the gains of norms."""

_UPDATE_SIZE = 0.2
"""Root mean square of a typical AdamW update; Muon's updates are scaled to it (arXiv:2502.16982,
2.2)."""


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as functions of trees, to be called inside a jitted step.

    `trainable(params)` selects the parameters that are not frozen; the other functions take and
    return trees of the trainable parameters only. `init(params)` returns the initial state.
    `gradient_point(params, state)` returns the parameters at which gradients are taken.
    `update(gradients, state, params, learning_rate, key)` returns a direction, a factor, and the
    next state; the caller adds factor * direction to the parameters. bfloat16 arrays of the state
    are rounded stochastically with `key`.

    The learning rate is an argument: the train step computes it from its own step count, so that
    the schedule also advances in skipped steps.
    """

    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree, Tree, jax.Array, jax.Array], tuple[Tree, jax.Array, Tree]]
    trainable: Callable[[Tree], Tree]
    gradient_point: Callable[[Tree, Tree], Tree] = lambda params, state: params


@dataclass(frozen=True)
class ParamGroup:
    """How a parameter is updated.

    rule: an optimizer's name, or `FROZEN`.
    decayed: whether weight decay applies to the parameter.
    multiplier: factor on the learning rate.
    matrix: which of the parameter's dimensions are rows and which are columns; None unless the rule
        is Muon.
    """

    rule: str
    decayed: bool
    multiplier: float
    matrix: MuonDimensionNumbers | None


def build_optimizer(config: Config, axes: Tree) -> Optimizer:
    """Build the optimizer of `config`. axes: the logical axes of each parameter.

    Raises `configs.UsageError` for a pattern that matches no parameter.
    """
    settings = config.optimizer
    all_groups = parameter_groups(config, axes)
    names = {name for name, group in flat(all_groups).items() if group.rule != FROZEN}
    trainable = functools.partial(select, names=names)
    param_groups = trainable(all_groups)

    def each(value: Callable[[ParamGroup], Any]) -> Tree:
        return jax.tree.map(value, param_groups)

    steps = []
    if settings.gradient_clip_norm is not None:
        steps.append(_clipped(settings.gradient_clip_norm))
    direction = _direction(settings, each)
    param_dtype = config.precision.parameter_dtype
    state_dtype = param_dtype if settings.state_dtype == "auto" else settings.state_dtype
    if {param_dtype, state_dtype} != {"float32"}:
        direction = _stored_in(direction, jnp.dtype(state_dtype))
    steps.append(direction)
    if settings.weight_decay:
        decayed = each(lambda param_group: param_group.decayed)
        steps.append(optax.add_decayed_weights(settings.weight_decay, mask=decayed))
    if settings.learning_rate_multipliers:
        multipliers = each(lambda param_group: param_group.multiplier)
        steps.append(optax.stateless(lambda u, _: jax.tree.map(lambda m, x: m * x, multipliers, u)))
    chain = optax.chain(*steps)
    if settings.name == "schedule_free":
        return _schedule_free(chain, settings.beta1, trainable)

    # Muon has products of its own.
    in_bfloat16 = config.precision.products == "bfloat16"
    precision = BFLOAT16_PRODUCTS if in_bfloat16 else None

    def update(gradients, state, params, learning_rate, key):
        with jax.default_matmul_precision(precision):
            direction, state = chain.update(gradients, state, params, key=key)
        return direction, -learning_rate, state

    return Optimizer(chain.init, update, trainable)


def parameter_groups(config: Config, axes: Tree) -> Tree:
    """Return a tree with the `ParamGroup` of each parameter, chosen by its name and logical axes.

    Raises `configs.UsageError` for a pattern that matches no parameter.
    """
    settings = config.optimizer
    names = list(flat(axes))
    frozen = frozen_names(config, names)
    no_decay = {
        name
        for pattern in settings.no_decay
        for name in matching(names, pattern, "optimizer.no_decay")
    }
    multipliers: dict[str, float] = {}
    for pair in settings.learning_rate_multipliers:
        pattern, _, factor = pair.rpartition("=")
        matched = matching(names, pattern, "optimizer.learning_rate_multipliers")
        multipliers |= dict.fromkeys(matched, float(factor))

    def param_group(path, axes) -> ParamGroup:
        name = ".".join(map(_part, path))
        if name in frozen:
            return ParamGroup(FROZEN, decayed=False, multiplier=0.0, matrix=None)
        matrix = matrix_of(axes) if settings.name == "muon" else None
        return ParamGroup(
            rule="adamw" if settings.name == "muon" and matrix is None else settings.name,
            decayed=bool(settings.weight_decay)
            and path[-1].key not in _UNDECAYED
            and len([axis for axis in axes if axis != "layers"]) > 1
            and name not in no_decay,
            multiplier=multipliers.get(name, 1.0),
            matrix=matrix,
        )

    return jax.tree.map_with_path(param_group, axes)


def beside_parameters(state: Tree, params: Tree, take: Callable[[Any, Any], Any]) -> Tree:
    """Map `take(leaf, parameter)` over the leaves of an optimizer's state.

    `parameter` is the leaf of `params` with the same name and shape, for example for a moment. It
    is None for all other leaves of the state.
    """
    named = {tuple(map(_part, path)): leaf for path, leaf in jax.tree.leaves_with_path(params)}

    def one(path, leaf):
        parts = tuple(map(_part, path))
        candidates = (named[parts[i:]] for i in range(len(parts)) if parts[i:] in named)
        parameter = next(candidates, None)
        same = parameter is not None and parameter.shape == leaf.shape
        return take(leaf, parameter if same else None)

    return jax.tree.map_with_path(one, state)


def _direction(settings: Any, each: Callable) -> optax.GradientTransformation:
    """Return the transformation of gradients into a direction, before weight decay and learning
    rate."""
    if settings.name == "sgd":
        return optax.trace(settings.momentum, settings.nesterov) if settings.momentum else _AS_IS
    if settings.name == "lion":
        return optax.scale_by_lion(settings.beta1, settings.beta2)
    if settings.name == "adafactor":
        return optax.chain(
            optax.scale_by_factored_rms(
                decay_rate=settings.decay_exponent, decay_rate_fn=_adafactor_decay
            ),
            optax.clip_by_block_rms(1.0),
            optax.ema(settings.beta1, debias=False) if settings.beta1 else _AS_IS,
        )
    if settings.name == "schedule_free":  # Its average replaces the first moment.
        return optax.scale_by_rms(
            settings.beta2, settings.epsilon, eps_in_sqrt=False, bias_correction=True
        )
    adam = optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon)
    return _muon(settings.momentum, adam, each) if settings.name == "muon" else adam


_AS_IS = optax.identity()


def _clipped(most: float) -> optax.GradientTransformation:
    """Scale gradients to a global norm of at most `most` (Pascanu et al. 2013, arXiv:1211.5063,
    algorithm 1).

    This multiplies by one factor; `optax.clip_by_global_norm` computes two trees and selects one.
    """

    def clip(gradients: Tree, _: Tree) -> Tree:
        factor = most / jnp.maximum(optax.tree.norm(gradients), most)
        return jax.tree.map(lambda gradient: (gradient * factor).astype(gradient.dtype), gradients)

    return optax.stateless(clip)


def _adafactor_decay(step: jax.Array, exponent: float) -> jax.Array:
    """Return the decay of the second moment at step 0, 1, ...; at most 0.999, because near 1 the
    moment would stop changing."""
    return jnp.minimum(0.999, 1 - (step + 1.0) ** -exponent)


def _muon(momentum: float, adam: optax.GradientTransformation, each: Callable):
    """Return Muon for hidden matrices, with updates scaled to the size of AdamW's, and `adam` for
    the other parameters."""
    matrices = each(lambda param_group: param_group.matrix or optax.MaskedNode())

    def size(update: jax.Array, matrix: MuonDimensionNumbers) -> jax.Array:
        sides = [math.prod(update.shape[i] for i in side) for side in matrix]
        return update * (_UPDATE_SIZE * max(sides) ** 0.5)

    muon = optax.chain(
        scale_by_muon(beta=momentum, weight_dimension_numbers=matrices),
        optax.stateless(lambda updates, _: jax.tree.map(size, updates, matrices)),
    )
    return optax.partition(
        {"muon": muon, "adamw": adam}, each(lambda param_group: param_group.rule)
    )


class ScheduleFreeState(NamedTuple):
    """The state of the optimizer that `_schedule_free` returns.

    direction: the state of the Optax chain that computes directions.
    fast: the parameters that the updates are added to, z in the paper.
    weight_sum: the sum of the averaging weights so far.
    largest_rate: the largest learning rate so far.
    """

    direction: Tree
    fast: Tree
    weight_sum: jax.Array
    largest_rate: jax.Array


def _schedule_free(
    chain: optax.GradientTransformation, beta: float, trainable: Callable[[Tree], Tree]
) -> Optimizer:
    """Return the schedule-free optimizer (Defazio et al. 2024, arXiv:2405.15682, eq. 2 to 4,
    section 4).

    The parameters in `TrainState` are the average x, which is evaluated, sampled and saved;
    `optax.contrib.schedule_free` stores y there.
    """

    def init(params):
        # A separate copy: the step donates both.
        fast = jax.tree.map(jnp.copy, params)
        return ScheduleFreeState(chain.init(params), fast, jnp.zeros(()), jnp.zeros(()))

    def gradient_point(params, state):
        return jax.tree.map(
            lambda x, z: (beta * x + (1 - beta) * z).astype(x.dtype), params, state.fast
        )

    def update(gradients, state, params, learning_rate, key):
        chain_key, fast_key = jax.random.split(key)
        point = gradient_point(params, state)
        direction, chain_state = chain.update(gradients, state.direction, point, key=chain_key)
        wide = jax.tree.map(lambda z, d: z - learning_rate * d, state.fast, direction)
        fast = round_stochastically(wide, state.fast, fast_key)
        largest = jnp.maximum(state.largest_rate, learning_rate)
        weight_sum = state.weight_sum + largest**2
        share = largest**2 / weight_sum
        towards = jax.tree.map(lambda z, x: z.astype(jnp.float32) - x, fast, params)
        return towards, share, ScheduleFreeState(chain_state, fast, weight_sum, largest)

    return Optimizer(init, update, trainable, gradient_point)


def _stored_in(
    inner: optax.GradientTransformation, dtype: jnp.dtype
) -> optax.GradientTransformation:
    """Wrap `inner` so that it computes in float32 and stores its moments in `dtype` between
    steps."""

    def cast(state: Tree, params: Tree, dtype: jnp.dtype) -> Tree:
        return beside_parameters(
            state, params, lambda leaf, beside: leaf if beside is None else leaf.astype(dtype)
        )

    def init(params):
        return cast(inner.init(params), params, dtype)

    def update(gradients, state, params, *, key, **_):
        wide = optax.tree.cast(gradients, jnp.float32)
        updates, new = inner.update(wide, cast(state, params, jnp.float32), params)
        return updates, round_stochastically(new, state, key)

    return optax.GradientTransformationExtraArgs(init, update)


def _part(key: Any) -> str:
    return jax.tree_util.keystr((key,), simple=True)
