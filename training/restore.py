"""A trained model from its workdir: what evaluation, generation and export begin with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax import nnx
from jax.sharding import Mesh

import parallel
from configs import Config, UsageError
from tasks import TASKS
from training.attention import working_attention
from training.checkpoints import (
    find_good_step,
    finished_steps,
    ranked_steps,
    restore_fields,
    set_aside_unusable,
)
from training.manifest import Damaged, verify
from training.program import Program, build_program
from training.trees import flat, overlay, select

Tree = Any


@dataclass(frozen=True)
class Restored:
    """One step of a workdir, on a mesh. `manifest["data"]` knows the sizes and the classes."""

    step: int
    manifest: dict[str, Any]
    program: Program
    params: Tree
    statistics: Tree

    @property
    def module(self) -> nnx.Module:
        """The model with its restored arrays."""
        return self.program.template.bind(self.params, self.statistics)


def restore_model(
    workdir: Path,
    config: Config,
    *,
    step: str,
    weights: str | None,
    mesh: Mesh,
    warn: Callable[[str], None],
) -> Restored:
    """Restores parameters and statistics, verified.

    `step` is a number, "latest" (the newest whole one; damaged newer ones are named through
    `warn`) or "best" (by `checkpoint.best_metric`). `weights` is "ema" or "raw"; None takes the
    average where the run keeps one.

    Raises `configs.UsageError` for a step or weights that are not there, or damaged.
    """
    folder = workdir / "checkpoints"
    number, manifest = choose_step(folder, config, step, warn)
    attention = working_attention(config, mesh, warn)
    program = build_program(config, manifest["data"]["sizes"], mesh, attention=attention)
    averaged = config.train.ema_decay is not None
    if weights == "ema" and not averaged:
        raise UsageError(f"--weights=ema: {workdir} was trained without train.ema_decay; use raw")
    abstract = program.abstract_state
    ema = abstract.ema if averaged and weights != "raw" else None
    target = {
        # What is frozen has no average.
        "params": select(abstract.params, flat(abstract.params).keys() - flat(ema).keys()),
        "statistics": abstract.statistics,
        "ema": ema,
    }
    fields = restore_fields(folder, number, manifest, "model", target)
    params = overlay(fields["params"], fields["ema"])
    return Restored(number, manifest, program, params, fields["statistics"])


def find_checkpoint(
    workdir: Path, notify: Callable[[str], None]
) -> tuple[int, dict[str, Any]] | None:
    """Step and manifest of the newest good checkpoint; worse ones are told of and set aside.

    None where there is no checkpoint yet. To be called in every process of the run.
    """
    folder = workdir / "checkpoints"
    try:
        found = find_good_step(folder, notify)
    except Damaged as damage:
        raise UsageError(f"{damage}; to begin anew, give another --workdir") from None
    parallel.wait_for_all("checkpoints verified")
    if parallel.is_main_process():
        set_aside_unusable(folder, found[0] if found else -1, notify)
    parallel.wait_for_all("unusable checkpoints set aside")
    return found


def choose_step(
    folder: Path, config: Config, step: str, warn: Callable[[str], None], *, asked: str = "--step"
) -> tuple[int, dict[str, Any]]:
    """Number and manifest of the step that `restore_model` takes; `asked`: by what, for errors."""
    steps = finished_steps(folder)
    there = f"there are {', '.join(map(str, steps))}" if steps else "there are none yet"
    try:
        if step == "latest":
            found = find_good_step(folder, warn)
            if found is None:
                raise UsageError(f"{folder} holds no checkpoint: train first")
            return found
        if step == "best":
            metric = config.checkpoint.best_metric
            more = metric in TASKS[config.task.name].higher_is_better
            ranked = ranked_steps(folder, metric, higher_is_better=more)
            if not ranked:
                raise UsageError(
                    f"{asked}=best: no checkpoint in {folder} was evaluated for {metric}"
                )
            number = ranked[0][0]
        elif step.isdecimal() and int(step) in steps:
            number = int(step)
        else:
            raise UsageError(f"{asked}={step}: no such checkpoint in {folder}; {there}")
        return number, verify(folder / str(number))
    except Damaged as damage:
        raise UsageError(f"{damage}; {there}") from None
