"""Checkpoints: written asynchronously by Orbax, and verified through their manifests.

`checkpoints/120/` holds the state after 120 batches. Evaluation and generation read only its item
`model` (parameters, statistics, EMA and its statistics). The item `training` has the optimizer's
state and the step counts. Arrays have flat names (`params.layers.0.mixer.query.kernel`).
"""

import logging
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import orbax.checkpoint as ocp

from parallel.distributed import any_process, is_main_process
from parallel.exchange import agree, first
from training.best_metric import BestMetric, Evaluation, evaluation_in
from training.chunks import save_args
from training.hashes import bytes_on_disk
from training.manifest import (
    ITEMS,
    LOCKED,
    UNFINISHED,
    Damaged,
    StepLock,
    hash_written_files,
    read_manifests,
    remove_step,
    remove_unfinished,
    step_folders,
    try_lock,
    unfinished,
    why_kept,
    write_manifest,
)
from training.trees import Tree, flat
from training.verification import verify_together

if TYPE_CHECKING:
    from training.step import TrainState

# Orbax logs every file that it touches, and with their stacks the errors that it raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class NotSaved(Exception):
    """Raised when too many saves in a row have failed, or the last one of the run."""


class Checkpoints:
    """Writes checkpoints; keeps the last `keep_last` and the best `keep_best` of them.

    No step is deleted before a newer one is written and has its manifest. Folders and files that a
    run did not write are never deleted.

    metric: the metric that ranks the evaluated steps.
    saved_step: the last step that was saved, or the step from which the run resumed; -1 if there is
        none.
    also_sync: files outside the step folders that are synced to the disk before a step counts as
        saved.
    max_failures: how many saves in a row may fail: then the run has to end.
    on_saved: called, in another thread, with each step that counts as saved.
    warn: called with a message about a save that failed, and about a step that can't be deleted.

    A save that fails for want of room, or because the disk fails, is told by the next call of
    `check`, and leaves nothing behind. The next one is tried as usual, and waited for. Only one run
    may write to a folder: hold the lock of its workdir.
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
        max_failures: int = 1,
        on_saved: Callable[[int], None] = lambda step: None,
        warn: Callable[[str], None] = lambda text: None,
    ):
        self._folder, self._also_sync = folder.absolute(), also_sync
        self._on_saved = on_saved
        self._every_steps = every_steps
        self._keep_last, self._keep_best = keep_last, keep_best
        self.metric, self.saved_step = metric, -1
        self._max_failures, self._warn = max_failures, warn
        self._failures: list[str] = []  # Of the last saves in a row.
        self._last_size: int | None = None  # Bytes on the disk.
        self._not_deleted: set[int] = set()  # Steps of which `warn` got a message.
        # Trained numbers compress by a few percent only, which takes the cores from the steps.
        handlers = {item: ocp.PyTreeCheckpointHandler(use_compression=False) for item in ITEMS}
        self._checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**handlers))
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._unraisable_hook = sys.unraisablehook
        sys.unraisablehook = self._report_unraisable

    def save(
        self, step: int, state: "TrainState", *, axes: Tree, contents: Mapping[str, Any]
    ) -> None:
        """Copy the state to the host and return; the files are written in the background.

        axes: the logical axes of the parameters, for the manifest.
        contents: the manifest's other keys: `config`, `data`, `versions`, and `metrics` (of an
            evaluation at exactly this step, or empty).

        A step that is already saved is not saved again. After a save that failed, this one is
        waited for.

        Raises `NotSaved` after `max_failures` failures in a row.
        """
        self.wait()
        if step == self.saved_step:
            return
        self._check_failures()
        items = {
            name: flat({field: getattr(state, field) for field in fields})
            for name, fields in ITEMS.items()
        }
        leaves = {name: leaf for item in items.values() for name, leaf in item.items()}
        contents = {"step": step, **contents, "leaves": _leaf_table(leaves, axes)}
        failure = agree("save-room", self._obstacle(step, leaves), first)
        if failure is None:
            try:
                self._checkpointer.save(
                    self._folder / str(step),
                    args=ocp.args.Composite(
                        **{
                            name: ocp.args.PyTreeSave(part, save_args(part))
                            for name, part in items.items()
                        }
                    ),
                )
            except Exception as error:
                failure = _reason(error)
            self._pending = self._executor.submit(self._finish, step, contents, failure)
            if self._failures:
                self.wait()
        else:
            self._note_failure(step, failure)
        self._check_failures()

    def check(self) -> None:
        """Tell the failure of the last save; do not wait for a save in progress."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save and its manifest are on the disk, or tell its failure."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, failure, notes = pending.result()
        for text in notes:
            self._warn(text)
        if failure is None:
            self.saved_step, self._failures = step, []
        else:
            self._note_failure(step, failure)

    def require(self, step: int) -> None:
        """Wait for the last save. Raises `NotSaved` if it failed, so that `step` is not saved."""
        self.wait()
        if self.saved_step != step:
            raise NotSaved(self._failure_text(f"checkpoint {step} is not saved"))

    def newest_up_to(self, wanted: int, latest: int) -> int | None:
        """Return the newest finished step up to `wanted`; if there is none, the newest up to
        `latest`; None if there is none either. All processes must call this: the first decides."""
        self.wait()
        steps = agree("finished-steps", finished_steps(self._folder), first)
        known = [step for step in steps if step <= latest]
        return max([step for step in known if step <= wanted] or known, default=None)

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
            sys.unraisablehook = self._unraisable_hook

    def _report_unraisable(self, error: Any) -> None:
        """Report an error that nobody can catch, but for one: when a save fails, each array that
        TensorStore still writes then complains of Orbax's loop, which is closed."""
        if str(error.exc_value) != "Event loop is closed":
            self._unraisable_hook(error)

    def _finish(
        self, step: int, contents: Mapping[str, Any], failure: str | None
    ) -> tuple[int, str | None, list[str]]:
        """Wait for the files of a step. Each process hashes what it wrote; the first one then
        writes the manifest.

        failure: why the writing could not begin.

        Return, the same in all processes: the step, why it is not saved or None, and messages about
        steps that can't be deleted.
        """
        folder, written = self._folder / str(step), dict[str, Any]()
        try:
            self._checkpointer.wait_until_finished()
            if failure is None:
                written = hash_written_files(folder, jax.process_index(), jax.process_count())
        except Exception as error:
            failure = _reason(error)

        def conclude(parts: list[dict[str, Any]]) -> tuple[str | None, list[str]]:
            failure = next((part["failure"] for part in parts if part["failure"]), None)
            if failure is None:
                hashes = [part["written"] for part in parts]
                try:
                    write_manifest(folder, contents, hashes, also_sync=self._also_sync)
                except Exception as error:
                    failure = _reason(error)
            if failure is not None:
                remove_unfinished(folder)
                return failure, []
            self._last_size = sum(map(bytes_on_disk, hashes))
            self._on_saved(step)
            return None, self._retain()

        return step, *agree("save", {"written": written, "failure": failure}, conclude)

    def _obstacle(self, step: int, leaves: Mapping[str, Any]) -> str | None:
        """Return why a step can't be saved: something is in its place, nothing can be written
        there, or the disk has no room for the bytes of the last step, or of the arrays if there is
        none. The first process decides."""
        folder = self._folder / str(step)
        if folder.exists():
            return f"{folder} is there already, and this run did not write it: move it away"
        place = next(path for path in folder.parents if path.exists())
        # Where Orbax can't make its folder, its threads wait for it for ten minutes, and so would
        # the end of the process.
        try:
            if is_main_process():
                os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=place))
        except OSError as error:
            return f"{place}: {error.strerror}"
        if self._last_size is None:
            last = newest_manifest(self._folder)
            self._last_size = None if last is None else bytes_on_disk(last["files"])
        needed = self._last_size
        if needed is None:
            needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves.values())
        free = shutil.disk_usage(place).free
        if needed <= free:
            return None
        return f"it needs about {needed / 1e6:,.1f} MB, and {place} has {free / 1e6:,.1f} MB free"

    def _note_failure(self, step: int, reason: str) -> None:
        self._failures.append(reason)
        count, most = len(self._failures), self._max_failures
        kept = f"checkpoint {self.saved_step} is kept; " if self.saved_step > 0 else ""
        self._warn(
            f"checkpoint {step} is not saved: {reason}; {kept}failure {count} of the {most} in a "
            "row that end a run (checkpoint.max_failed_saves)"
        )

    def _check_failures(self) -> None:
        if len(self._failures) >= self._max_failures:
            raise NotSaved(self._failure_text(f"{len(self._failures)} saves in a row failed"))

    def _failure_text(self, what: str) -> str:
        reason = f": {self._failures[-1]}" if self._failures else ""
        there = self.saved_step > 0
        last = f"from checkpoint {self.saved_step}" if there else "from the beginning"
        return f"{what}{reason}. Once that is cured, the same command goes on {last}"

    def _retain(self) -> list[str]:
        """Delete the steps that are neither among the last nor among the best. A step that is
        locked by a reader stays until the next save. Return messages about steps that stay though
        nobody needs them."""
        manifests = read_manifests(self._folder)
        kept = set(list(manifests)[-self._keep_last :])
        evaluations = _evaluations(manifests)
        best = _best_steps(evaluations, self.metric, as_measured_last=False)
        kept |= set(best[: self._keep_best])
        notes = []
        for step in manifests.keys() - kept - self._not_deleted:
            folder = self._folder / str(step)
            try:
                why = why_kept(folder, manifests[step])
                if why is None:
                    remove_step(folder)
            except OSError as error:
                why = _reason(error)
            if why is not None:
                self._not_deleted.add(step)
                notes.append(f"checkpoint {step} is not deleted: {why}")
        return notes


def finished_steps(folder: Path) -> list[int]:
    """Return the steps that have a readable manifest, ascending. Their files are not verified."""
    return list(read_manifests(folder))


def newest_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the newest readable manifest; None if there is none. The step's files are not
    verified."""
    return next(reversed(read_manifests(folder).values()), None)


def ranked_steps(folder: Path, metric: BestMetric) -> list[tuple[int, float]]:
    """Return (step, value) for each finished step at which `metric` was finite, best first."""
    return _ranked(_evaluations(read_manifests(folder)), metric)


def best_step(folder: Path, metric: BestMetric) -> int | None:
    """Return the step with the best value of `metric`; None if no step has a finite value.

    Steps measured with the settings of the newest evaluation are preferred to all others.
    """
    evaluations = _evaluations(read_manifests(folder))
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
    while True:
        steps = [step for step in step_folders(folder) if step not in rejected]
        step = agree("newest-step", steps[-1] if steps else None, first)
        if step is None:
            break
        path = folder / str(step)
        state, step_lock = try_lock(path)
        state = agree("step-locked", state, min)
        if state == LOCKED:
            assert step_lock is not None
            try:
                return step, verify_together(path), step_lock
            except Damaged as damage:
                problem = str(damage)
        if step_lock is not None:
            step_lock.release()
        if state == UNFINISHED:
            rejected.add(step)
            if not is_written():
                warn(f"checkpoint {step} is not used: {unfinished(path)}")
        elif state == LOCKED and agree("step-there", path.exists(), first):
            rejected.add(step)
            is_damaged = True
            warn(f"checkpoint {step} is not used: {problem}")
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
    for step in step_folders(folder):
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


def _reason(error: Exception) -> str:
    """Describe in one line why the disk or another process failed. Raises any other error, which is
    a mistake of the code."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or text}"
    # TensorStore's and JAX's errors have no class of their own.
    if found := re.search(r"os_error_code='(\d+)'", text):
        return os.strerror(int(found[1]))
    if re.search(r"RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED", text):
        return text[:300]
    raise error


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
