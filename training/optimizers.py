"""Optimizers and learning-rate schedules."""

from typing import Any

import jax
import optax

from configs import Config

Tree = Any

_UNDECAYED = ("bias", "scale")
"""Names of parameters that weight decay leaves alone: offsets and the gains of norms."""


def warmup_steps(config: Config) -> int:
    """The warm-up in steps: cut to a tenth of the run where it would be longer than the run."""
    asked = config.optimizer.warmup_steps
    return asked if asked < config.train.steps else config.train.steps // 10


def build_schedule(config: Config) -> optax.Schedule:
    """Learning rate of step 0, 1, ...: linear warm-up, then constant or a cosine to the end."""
    settings = config.optimizer
    warmup = warmup_steps(config)
    rest = max(1, config.train.steps - warmup)
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            settings.learning_rate, rest, alpha=settings.final_learning_rate_ratio
        )
    else:
        after = optax.constant_schedule(settings.learning_rate)
    if not warmup:
        return after
    # The first step moves already: (step + 1) / warmup.
    start = settings.learning_rate / warmup
    ramp = optax.linear_schedule(start, settings.learning_rate, max(1, warmup - 1))
    return optax.join_schedules([ramp, after], [warmup])


def build_optimizer(config: Config) -> optax.GradientTransformation:
    """The direction of descent, without the learning rate.

    The train step multiplies by the schedule at its own count, so that a skipped step does not
    hold the schedule back.
    """
    settings = config.optimizer
    steps = []
    if settings.gradient_clip_norm is not None:
        steps.append(optax.clip_by_global_norm(settings.gradient_clip_norm))
    steps.append(optax.scale_by_adam(settings.beta1, settings.beta2, settings.epsilon))
    if settings.weight_decay:
        steps.append(optax.add_decayed_weights(settings.weight_decay, mask=decay_mask))
    return optax.chain(*steps)


def decay_mask(params: Tree) -> Tree:
    """True for each parameter that weight decay pulls to zero: matrices, kernels, embeddings."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in _UNDECAYED, params)
