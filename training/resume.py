"""Resuming a run: the checks and the state before its next step."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from configs.errors import UsageError
from configs.schema.config import Config
from parallel.axes import replicated
from parallel.distributed import barrier, is_main_process
from training.arrays import restore_state
from training.checkpoints import Checkpoints, set_aside_unusable
from training.loss_spikes import LossSpike, SpikeWatch
from training.program import TrainProgram
from training.restore import find_checkpoint
from training.schedules import schedule_change
from training.step import TrainState
from training.trees import flat

_MOST_NAMES = 3


class NotFinite(Exception):
    """Raised for the checkpoint of `step` if `names`, arrays that training keeps finite, are not
    finite in it. `newest_usable`: the newest step that may be used."""

    def __init__(self, step: int, names: Sequence[str]):
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        some = ", ".join(names[:_MOST_NAMES])
        super().__init__(f"checkpoint {step} is not used: {some}{more} is not finite in it")
        self.newest_usable = step - 1


def why_finished(config: Config, workdir: Path, step: int, stale: str | None) -> str | None:
    """Return a message if the run is finished after `step`; None if it can continue.

    stale: the reason why the run ended early; None if it did not.
    """
    steps = config.train.steps
    if step >= steps:
        return (
            f"{workdir} is finished: {step} of {steps} steps are done. To go on, give a "
            f"larger --config.train.{config.train.length_field}. Its report is "
            f"{workdir / 'report.html'}"
        )
    if stale is not None:
        return (
            f"{workdir} ended early, at step {step}: {stale}. To go on, give "
            f"a larger --config.train.stop_after_evaluations, or none"
        )
    return None


def check_same_data(step: int, changes: str | None, workdir: Path) -> None:
    """Raise `UsageError` if the training data is not that of the checkpoint of `step`.

    changes: the differences, as `Dataset.changes_since` returns them.
    """
    if changes is not None:
        raise UsageError(
            f"{changes} since checkpoint {step} of {workdir}: give the old data, or another "
            "--workdir"
        )


def resumed_state(
    manifest: Mapping[str, Any],
    workdir: Path,
    program: TrainProgram,
    warn: Callable[[str], None],
) -> TrainState:
    """Restore the state of a checkpoint onto the mesh of `program`. Warn if the learning rate
    differs from the checkpoint's schedule.

    Raises `NotFinite` if a trained parameter or a batch statistic has a value that is not finite.
    (A step never makes one: it was wrong before its hash was taken.)
    """
    if change := schedule_change(program.config, manifest, program.warmup_steps):
        warn(change)
    folder, step = workdir / "checkpoints", manifest["step"]
    state = restore_state(folder, step, manifest, program.abstract_state)
    if names := _not_finite(state, program):
        raise NotFinite(step, names)
    return state


def go_back(
    reason: LossSpike | NotFinite,
    workdir: Path,
    checkpoints: Checkpoints,
    spikes: SpikeWatch,
    log: Any,
) -> dict[str, Any]:
    """Set aside the checkpoints that must not be used for `reason`, and record a loss spike. Return
    the manifest of the newest good checkpoint that is left, from which the run goes on.

    log: the `RunLog` of the run.

    Raises `UsageError` if none is left.
    """
    log.warn(str(reason))
    checkpoints.wait()
    if is_main_process():
        set_aside_unusable(workdir / "checkpoints", reason.newest_usable, log.warn)
    barrier("checkpoints set aside")
    found = find_checkpoint(workdir, log.warn)
    if found is None:
        raise UsageError(f"{reason}, and there is no older one: give another --workdir")
    step, manifest = found
    if isinstance(reason, LossSpike):
        spikes.record(reason.window)  # From here on, a run that is killed goes on in the same way.
        log.event("rolled_back", step, str(reason))
    else:
        log.event("fell_back", step, str(reason))
    spikes.go_on_from(manifest)
    log.go_back_to(step)
    return manifest


def skip_batch(state: TrainState, step: int) -> TrainState:
    """Return the state after `step`, whose batch is skipped: only the count of steps differs."""
    count = np.asarray(step, np.int32)
    sharding = state.step.sharding
    return state.replace(step=jax.make_array_from_callback((), sharding, lambda index: count))


def _not_finite(state: TrainState, program: TrainProgram) -> list[str]:
    """Return the names of the trained parameters and of the batch statistics that have values that
    are not finite."""
    params = flat(state.params)
    leaves = {f"params.{name}": params[name] for name in params if name in program.trained}
    leaves |= flat({"statistics": state.statistics})
    are_finite = jax.jit(
        lambda leaves: jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]),
        out_shardings=replicated(program.mesh),
    )
    finite = np.asarray(are_finite([*leaves.values()]))
    return [name for name, is_finite in zip(leaves, finite, strict=True) if not is_finite]
