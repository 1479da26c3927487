"""Restoring from a workdir: a trained model for evaluation, generation and export, or the
checkpoint from which training resumes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.saved import differences, refuse_differences
from configs.reading.validation import build_config
from configs.schema.config import Config
from parallel.distributed import barrier, is_main_process
from parallel.exchange import agree, first
from training.arrays import has_ema_statistics, restore_fields
from training.attention import working_attention
from training.best_metric import BestMetric
from training.checkpoints import (
    best_step,
    find_good_step,
    finished_steps,
    lock_good_step,
    newest_manifest,
    set_aside_unusable,
)
from training.manifest import LOCKED, Damaged, StepLock, try_lock
from training.model_def import ModelDef, build_model_def
from training.parameters import frozen_names
from training.trees import Tree, flat, nested, overlay, select
from training.verification import verify_together
from training.workdir import is_in_use


@dataclass(frozen=True)
class Restored:
    """A trained model: one step of a workdir, restored on a mesh.

    manifest: the manifest of the step.
    params: the parameters, or their averages (EMA) if these were chosen.
    statistics: the batch statistics that belong to `params`.
    """

    step: int
    manifest: dict[str, Any]
    model_def: ModelDef
    params: Tree
    statistics: Tree

    @property
    def module(self) -> nnx.Module:
        """Return the model with its restored arrays."""
        return self.model_def.bind(self.params, self.statistics)


def restore_model(
    workdir: Path,
    config: Config,
    *,
    step: str,
    weights: str | None,
    mesh: Mesh,
    warn: Callable[[str], None],
) -> Restored:
    """Restore the parameters and batch statistics of a step, after verifying its files.

    step: a number, "latest" (the newest intact step; `warn` gets a message about each damaged newer
        one) or "best" (by `checkpoint.best_metric`).
    weights: "ema" or "raw"; None takes the average if the run has one.

    Raises `UsageError` for a missing or damaged step, and for "ema" if there is no average.
    """
    averaged = config.train.ema_decay is not None
    if weights == "ema" and not averaged:
        raise UsageError(f"--weights=ema: {workdir} was trained without train.ema_decay; use raw")
    number, manifest, step_lock = choose_step(workdir, config, step, warn)
    folder = workdir / "checkpoints"
    with step_lock:
        attention = working_attention(config, mesh, warn)
        data_spec = DataSpec.from_manifest(manifest["data"])
        model_def = build_model_def(config, data_spec, mesh, attention=attention)
        ema = _abstract_ema(model_def) if averaged and weights != "raw" else {}
        raw = flat(model_def.abstract_params).keys() - ema.keys()
        statistics = ema_statistics_field(folder, manifest, warn) if ema else "statistics"
        target = {
            "params": select(model_def.abstract_params, raw),
            statistics: model_def.abstract_statistics,
            "ema": nested(ema),
        }
        fields = restore_fields(folder, number, manifest, "model", target)
    params = overlay(fields["params"], fields["ema"])
    return Restored(number, manifest, model_def, params, fields[statistics])


def _abstract_ema(model_def: ModelDef) -> dict[str, Any]:
    """Return the abstract averages by parameter name: float32, sharded like the parameter. Frozen
    parameters have no average."""
    params = flat(model_def.abstract_params)
    frozen = frozen_names(model_def.config, list(params))
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, jnp.float32, sharding=leaf.sharding)
        for name, leaf in params.items()
        if name not in frozen
    }


def ema_statistics_field(
    folder: Path, manifest: Mapping[str, Any], warn: Callable[[str], None]
) -> str:
    """Return the name of the field with the batch statistics for a step's averaged weights.

    Older checkpoints have only the statistics of the raw weights: `warn` then gets a message.
    """
    if has_ema_statistics(manifest):
        return "ema_statistics"
    if any(name.startswith("statistics.") for name in manifest["leaves"]):
        warn(
            f"checkpoint {folder / str(manifest['step'])} has no batch statistics of its averaged "
            "weights, as older versions saved none: those of the raw weights are used, which cost "
            "accuracy early in a run"
        )
    return "statistics"


def find_checkpoint(
    workdir: Path, notify: Callable[[str], None]
) -> tuple[int, dict[str, Any]] | None:
    """Return the step and manifest of the newest intact checkpoint; None if there is none yet.

    Unusable newer checkpoints are renamed; `notify` gets a message about each. Every process of the
    run must call this function. Raises `UsageError` if there are checkpoints but none is intact.
    """
    folder = workdir / "checkpoints"
    try:
        good = find_good_step(folder, notify)
    except Damaged as damage:
        raise UsageError(f"{damage}; to begin anew, give another --workdir") from None
    barrier("checkpoints verified")
    if is_main_process():
        set_aside_unusable(folder, good[0] if good else -1, notify)
    barrier("unusable checkpoints set aside")
    return good


def previous_manifest(workdir: Path, config: Config) -> dict[str, Any] | None:
    """Return the newest manifest of the run in `workdir`; None for a new run.

    The step's files are not verified.

    Raises `UsageError` if the manifest's settings differ from `config` in fields that may not
    change. (config.json is not used, as it may be missing or from another run.)
    """
    manifest = newest_manifest(workdir / "checkpoints")
    if manifest is not None:
        source = f"the manifest of step {manifest['step']} of {workdir}"
        stored = build_config(manifest["config"], {}, source)
        refuse_differences(workdir, differences(stored, config))
    return manifest


def choose_step(
    workdir: Path, config: Config, step: str, warn: Callable[[str], None], *, option: str = "--step"
) -> tuple[int, dict[str, Any], StepLock]:
    """Choose the step for `restore_model`, verify its files and lock it. Return its number, its
    manifest and the lock.

    A run that is still training does not delete the step until the lock is released.

    option: the name of the flag or field with the value `step`, for messages.

    Raises `UsageError` as `restore_model` does.
    """
    folder = workdir / "checkpoints"

    def known_steps() -> str:
        steps = finished_steps(folder)
        return f"its steps: {', '.join(map(str, steps))}" if steps else "there are none yet"

    try:
        if step == "latest":
            good = lock_good_step(folder, warn, is_written=lambda: is_in_use(workdir))
            if good is None:
                raise UsageError(f"{folder} holds no checkpoint: train first")
            return good
        while True:
            number = _named_step(folder, config, step, option, known_steps)
            state, step_lock = try_lock(folder / str(number))
            if agree("step-locked", state, min) == LOCKED:
                assert step_lock is not None
                try:
                    return number, verify_together(folder / str(number)), step_lock
                except Damaged:
                    step_lock.release()
                    raise
            if step_lock is not None:  # The run has just deleted it.
                step_lock.release()
    except Damaged as damage:
        raise UsageError(f"{damage}; {known_steps()}") from None


def _named_step(
    folder: Path, config: Config, step: str, option: str, known_steps: Callable[[], str]
) -> int:
    """Return the number of the step: the best one for "best", else the number in `step`. All
    processes return what the first one finds."""
    number, problem = -1, None
    if step == "best":
        metric = BestMetric.of(config)
        found = best_step(folder, metric)
        if found is None:
            problem = f"{option}=best: no checkpoint in {folder} was evaluated for {metric.name}"
        else:
            number = found
    elif step.isdecimal() and int(step) in finished_steps(folder):
        number = int(step)
    else:
        problem = f"{option}={step}: no such checkpoint in {folder}; {known_steps()}"
    number, problem = agree("named-step", [number, problem], first)
    if problem is not None:
        raise UsageError(problem)
    return number
