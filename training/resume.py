"""Resuming a run: the checks and the state before its next step."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.schema.config import Config
from training.arrays import restore_state
from training.program import TrainProgram
from training.schedules import schedule_change
from training.step import TrainState


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
    differs from the checkpoint's schedule."""
    if change := schedule_change(program.config, manifest, program.warmup_steps):
        warn(change)
    folder = workdir / "checkpoints"
    return restore_state(folder, manifest["step"], manifest, program.abstract_state)
