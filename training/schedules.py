"""The learning rate of each step, and how it changes if a run resumes with another
`train.steps`."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from configs.schema.config import Config


def warmup_steps(config: Config, manifest: Mapping[str, Any] | None = None) -> int:
    """Return the number of warm-up steps: `optimizer.warmup_steps` or, if this setting is not below
    `train.steps`, a tenth of the run.

    manifest: the manifest of the checkpoint from which a run resumes. A resumed run keeps its
    original number of warm-up steps, even if `train.steps` has changed.
    """
    if manifest is not None:
        kept = manifest["history"].get("warmup_steps")  # Older manifests do not have it.
        return warmup_steps(_as_saved(config, manifest)) if kept is None else kept
    steps = config.optimizer.warmup_steps
    return steps if steps < config.train.steps else config.train.steps // 10


def build_schedule(config: Config, warmup: int | None = None) -> optax.Schedule:
    """Build the function from the step (0, 1, ...) to its learning rate: linear warm-up, then
    `optimizer.schedule`.

    warmup: number of warm-up steps; None for a new run (`warmup_steps`).
    """
    settings, steps = config.optimizer, config.train.steps
    peak, warmup = settings.learning_rate, warmup_steps(config) if warmup is None else warmup
    last = peak * settings.final_learning_rate_ratio
    rest = max(1, steps - warmup)
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=settings.final_learning_rate_ratio)
    elif settings.schedule == "linear":
        after = optax.linear_schedule(peak, last, rest)
    elif settings.schedule == "wsd":  # warm-up, stable, decay: Hu et al. 2024, arXiv:2404.06395
        decay = min(rest, max(1, round(steps * settings.decay_fraction)))
        after = optax.linear_schedule(peak, last, decay, transition_begin=rest - decay)
    elif settings.schedule == "inverse_square_root":
        start = max(1, warmup)

        def after(count):
            return peak * jnp.sqrt(start / (start + count))
    else:
        after = optax.constant_schedule(peak)
    if not warmup:
        return after
    # The first step has a learning rate above 0: (step + 1) / warmup.
    ramp = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([ramp, after], [warmup])


def schedule_change(config: Config, manifest: Mapping[str, Any], warmup: int) -> str | None:
    """Return a message if the next step's learning rate differs because `train.steps` was changed
    after the checkpoint of `manifest` was saved; None if it does not differ."""
    step, saved = manifest["step"], _as_saved(config, manifest)
    was, now = (float(build_schedule(one, warmup)(step)) for one in (saved, config))
    if math.isclose(was, now, rel_tol=1e-5):
        return None
    return (
        f"the learning rate of step {step + 1:,} is {now:.3g}, and was to be {was:.3g}: "
        f"optimizer.schedule={config.optimizer.schedule} now goes over train.steps="
        f"{config.train.steps}, and went over {saved.train.steps}"
    )


def _as_saved(config: Config, manifest: Mapping[str, Any]) -> Config:
    """Return `config` with the `train.steps` of the checkpoint. Other settings of the schedule
    can't change."""
    train = config.train.model_copy(update={"steps": manifest["config"]["train"]["steps"]})
    return config.model_copy(update={"train": train})
