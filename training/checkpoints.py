"""Checkpoints: written asynchronously by Orbax, and verified through their manifests.

`checkpoints/120/` holds the state after 120 batches. Evaluation and generation read only its item
`model` (parameters, statistics, EMA and its statistics). The item `training` has the optimizer's
state and the step counts. Arrays have flat names (`params.layers.0.mixer.query.kernel`).
"""

import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from configs.errors import UsageError
from parallel.distributed import any_process, is_main_process
from training.best_metric import BestMetric, Evaluation, evaluation_in
from training.manifest import (
    MANIFEST,
    Damaged,
    StepLock,
    read_manifest,
    remove_step,
    unfinished,
    verify,
    write_manifest,
)
from training.trees import Tree, flat

if TYPE_CHECKING:
    from training.step import TrainState

logging.getLogger("absl").setLevel(logging.WARNING)  # Orbax logs every file it touches.


ITEMS = {
    "model": ("params", "statistics", "ema", "ema_statistics"),
    "training": ("step", "skipped", "optimizer"),
}
"""The fields of the state that each item of a checkpoint holds."""


class Checkpoints:
    """Writes checkpoints; keeps the last `keep_last` and the best `keep_best` of them.

    No step is deleted before a newer one is written and has its manifest.

    metric: the metric that ranks the evaluated steps.
    saved_step: the last step that was saved, or the step from which the run resumed; -1 if there is
        none.
    also_sync: files outside the step folders that are synced to the disk before a step counts as
        saved.
    on_saved: called, in another thread, with each step that counts as saved.

    Only one run may write to a folder: hold the lock of its workdir.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_steps: int = 1,
        keep_last: int,
        keep_best: int,
        metric: BestMetric,
        also_sync: Sequence[Path] = (),
        on_saved: Callable[[int], None] = lambda step: None,
    ):
        self._folder, self._also_sync = folder.absolute(), also_sync
        self._on_saved = on_saved
        self._every_steps = every_steps
        self._keep_last, self._keep_best = keep_last, keep_best
        self.metric, self.saved_step = metric, -1
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None

    def save(
        self, step: int, state: "TrainState", *, axes: Tree, contents: Mapping[str, Any]
    ) -> None:
        """Copy the state to the host and return; the files are written in the background.

        axes: the logical axes of the parameters, for the manifest.
        contents: the manifest's other keys: `config`, `data`, `versions`, and `metrics` (of an
            evaluation at exactly this step, or empty).

        A step that is already saved is not saved again.

        Raises the error of an earlier save that failed.
        """
        if step == self.saved_step:
            return
        self.wait()
        items = {
            name: flat({field: getattr(state, field) for field in fields})
            for name, fields in ITEMS.items()
        }
        self._checkpointer.save(
            self._folder / str(step),
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(leaves) for name, leaves in items.items()}
            ),
        )
        leaves = {name: leaf for item in items.values() for name, leaf in item.items()}
        contents = {"step": step, **contents, "leaves": _leaf_table(leaves, axes)}
        self._pending = self._executor.submit(self._finish, step, contents)
        self.saved_step = step

    def check(self) -> None:
        """Raise the error of the last save if it has failed; do not wait for a save in progress."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save and its manifest are on the disk; raise its error if it
        failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def best(self) -> float | None:
        """Return the best finite value of the metric among the finished steps; None if there is
        none."""
        ranked = ranked_steps(self._folder, self.metric)
        return ranked[0][1] if ranked else None

    def is_due(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Return True if `step` should be saved.

        These are the multiples of `every_steps` and, with `keep_best`, each step that is better
        than all before. The main process decides for all processes, because the others may not see
        every step on the disk yet.

        metrics: the metrics of `step`; {} if it was not evaluated.
        """
        value = metrics.get(self.metric.name)
        if step % self._every_steps == 0:
            return True
        if value is None or not self._keep_best:
            return False
        self.wait()
        return any_process(is_main_process() and self.metric.is_better(value, self.best()))

    def better_than(self, step: int) -> tuple[int, float] | None:
        """Return the best step and its metric value. Return None if `step`, the last one, is the
        best or was not evaluated."""
        ranked = ranked_steps(self._folder, self.metric)
        return ranked[0] if step in dict(ranked) and ranked[0][0] != step else None

    def close(self) -> None:
        """Wait for the last save, and stop the threads."""
        try:
            self.wait()
        finally:
            self._executor.shutdown()
            self._checkpointer.close()

    def _finish(self, step: int, contents: Mapping[str, Any]) -> None:
        self._checkpointer.wait_until_finished()
        if jax.process_index() == 0:
            write_manifest(self._folder / str(step), contents, also_sync=self._also_sync)
            self._on_saved(step)
            self._retain()

    def _retain(self) -> None:
        """Delete the steps that are neither among the last nor among the best. A step that is
        locked by a reader stays until the next save."""
        manifests = _read_manifests(self._folder)
        kept = set(list(manifests)[-self._keep_last :])
        evaluations = _evaluations(manifests)
        best = _best_steps(evaluations, self.metric, as_measured_last=False)
        kept |= set(best[: self._keep_best])
        for step in manifests.keys() - kept:
            remove_step(self._folder / str(step))


def finished_steps(folder: Path) -> list[int]:
    """Return the steps that have a readable manifest, ascending. Their files are not verified."""
    return list(_read_manifests(folder))


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the newest readable manifest; None if there is none. The step's files are not
    verified."""
    return next(reversed(_read_manifests(folder).values()), None)


def ranked_steps(folder: Path, metric: BestMetric) -> list[tuple[int, float]]:
    """Return (step, value) for each finished step at which `metric` was finite, best first."""
    return _ranked(_evaluations(_read_manifests(folder)), metric)


def best_step(folder: Path, metric: BestMetric) -> int | None:
    """Return the step with the best value of `metric`; None if no step has a finite value.

    Steps measured with the settings of the newest evaluation are preferred to all others.
    """
    evaluations = _evaluations(_read_manifests(folder))
    best = _best_steps(evaluations, metric, as_measured_last=True)
    return best[0] if best else None


def find_good_step(folder: Path, warn: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
    """Return the newest step whose files all match its manifest, and the manifest.

    `warn` gets a message about each newer step that does not match. Returns None if no step was
    ever finished. Only the process that writes to the folder may call it, as the step is not
    locked; readers use `lock_good_step`.

    Raises `Damaged` if there are finished steps but none is intact.
    """
    good = lock_good_step(folder, warn)
    if good is None:
        return None
    step, manifest, step_lock = good
    step_lock.release()
    return step, manifest


def lock_good_step(
    folder: Path, warn: Callable[[str], None], *, is_written: Callable[[], bool] = lambda: False
) -> tuple[int, dict[str, Any], StepLock] | None:
    """Return the step and manifest as `find_good_step` does, and a lock against the step's
    deletion.

    is_written: returns whether another process is writing to the folder. If so, there is no warning
    about a step without a manifest, as it may not be finished yet.
    """
    rejected: set[int] = set()
    is_damaged = False
    while steps := [step for step in _step_folders(folder) if step not in rejected]:
        step = steps[-1]
        path = folder / str(step)
        try:
            step_lock = StepLock(path)
        except FileNotFoundError:
            if not path.exists() or (path / MANIFEST).exists():
                continue  # `_retain` has removed it or is removing it; there may be newer steps.
            rejected.add(step)
            if not is_written():
                warn(f"checkpoint {step} is not used: {unfinished(path)}")
            continue
        try:
            return step, verify(path), step_lock
        except (Damaged, FileNotFoundError) as damage:
            step_lock.release()
            if not path.exists():
                continue
            rejected.add(step)
            is_damaged = True
            warn(f"checkpoint {step} is not used: {damage}")
    if is_damaged:
        raise Damaged(f"none of the checkpoints in {folder} is whole")
    return None


def set_aside_unusable(folder: Path, newer_than: int, warn: Callable[[str], None]) -> None:
    """Rename the folders of all steps newer than `newer_than`, the step in use, to free their
    numbers.

    Folders that a killed process left half-written or half-deleted are removed. `warn` gets a
    message about each change.
    """
    if not folder.is_dir():
        return
    for step in _step_folders(folder):
        if step > newer_than:
            target = folder / f"{step}.unusable"
            for number in range(2, 1000):
                if not target.exists():
                    break
                target = folder / f"{step}.unusable-{number}"
            (folder / str(step)).rename(target)
            warn(f"checkpoint {step} was set aside as {target}")
    for path in folder.iterdir():
        if re.fullmatch(r"\d+\.(removing|orbax-checkpoint-tmp.*)", path.name):
            shutil.rmtree(path)
            warn(f"{path} was removed: its writing or removal had been cut off")


def restore_state(
    folder: Path, step: int, manifest: Mapping[str, Any], target: "TrainState"
) -> "TrainState":
    """Restore the complete state of a step, with the shapes, dtypes and shardings of `target`.

    Raises `UsageError` if the step's arrays differ from the target's (another model or optimizer).
    """
    fields: dict[str, Any] = {}
    older = not has_ema_statistics(manifest)
    if older:  # `measure_ema` measures them before they are used.
        target = target.replace(ema_statistics=None)
    for item, names in ITEMS.items():
        wanted = {name: getattr(target, name) for name in names}
        fields |= restore_fields(folder, step, manifest, item, wanted)
    if older and fields["ema"] is not None:
        fields["ema_statistics"] = jax.tree.map(jnp.copy, fields["statistics"])
    return target.replace(**fields)


def has_ema_statistics(manifest: Mapping[str, Any]) -> bool:
    """Return whether a step has batch statistics for its averaged weights. Older versions saved
    none."""
    return any(name.startswith("ema_statistics.") for name in manifest["leaves"])


def restore_fields(
    folder: Path, step: int, manifest: Mapping[str, Any], item: str, target: Mapping[str, Tree]
) -> dict[str, Tree]:
    """Restore the fields in `target` from one item (`ITEMS`) of a step, with the shardings of
    `target`.

    Raises `UsageError` if the step does not have these arrays in these shapes and dtypes.
    """
    wanted = flat(dict(target))
    stored = {name: leaf for name, leaf in manifest["leaves"].items() if name in wanted}
    # Orbax would cast and broadcast in silence, so the manifest's shapes and dtypes are compared.
    problems = [f"{name} is not in it" for name in wanted if name not in stored]
    problems += [
        f"{name} is {leaf['dtype']}{leaf['shape']} in it, {wanted[name].dtype}"
        f"{list(wanted[name].shape)} in the model"
        for name, leaf in stored.items()
        if leaf["shape"] != list(wanted[name].shape) or leaf["dtype"] != str(wanted[name].dtype)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UsageError(f"checkpoint {folder / str(step)}: {'; '.join(problems[:3])}{more}")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            (folder / str(step)).absolute(),
            args=ocp.args.Composite(
                **{
                    item: ocp.args.PyTreeRestore(
                        item=wanted,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                        partial_restore=True,
                    )
                }
            ),
        )[item]
    leaves = [restored[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(dict(target)), leaves)


def _read_manifests(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the readable manifests by step, ascending."""
    manifests = {}
    for step in _step_folders(folder):
        try:
            manifests[step] = read_manifest(folder / str(step))
        except Damaged:
            continue
    return manifests


def _evaluations(manifests: Mapping[int, Mapping[str, Any]]) -> dict[int, Evaluation]:
    """Return the validation of each step that was evaluated."""
    return {
        step: evaluation_in(manifest) for step, manifest in manifests.items() if manifest["metrics"]
    }


def _ranked(evaluations: Mapping[int, Evaluation], metric: BestMetric) -> list[tuple[int, float]]:
    """Return (step, value) for each step at which the metric is known and finite, best first."""
    values = [(step, metric.value(one)) for step, one in evaluations.items()]
    known = [(step, value) for step, value in values if value is not None]
    return sorted(known, key=lambda pair: pair[1], reverse=metric.higher_is_better)


def _best_steps(
    evaluations: Mapping[int, Evaluation], metric: BestMetric, *, as_measured_last: bool
) -> list[int]:
    """Return the steps in groups that were measured with the same settings, best first in each
    group.

    The first group has the settings of `metric` (with as_measured_last: of the newest step). Each
    next group has the settings of the newest step that is not in an earlier group.
    """
    ways = [] if as_measured_last else [metric]
    ways += [metric.measured_as(one) for one in reversed(list(evaluations.values()))]
    return list(dict.fromkeys(step for way in ways for step, _ in _ranked(evaluations, way)))


def _step_folders(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _leaf_table(leaves: Mapping[str, Any], axes: Tree) -> dict[str, dict[str, Any]]:
    named = flat({"params": axes})
    return {
        name: {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            **({"axes": list(named[name])} if name in named else {}),
        }
        for name, leaf in leaves.items()
    }
