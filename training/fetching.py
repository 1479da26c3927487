"""Trained models in object stores: a step is copied to the cache before it is restored.

The copy is a workdir of its own, which a run never writes to.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from configs.errors import UsageError
from configs.schema.config import Config
from storage.runs import one_writer
from storage.store import Store, open_store
from training.best_metric import BestMetric
from training.checkpoints import best_step, finished_steps
from training.manifest import CHECKPOINTS, MANIFEST, Damaged, read_manifest, remove_step
from training.remote_steps import (
    fetch_step,
    read_remote_manifest,
    remove_leftovers,
    steps_in,
)


def fetch_model(
    url: str, folder: Path, config: Config, step: str, warn: Callable[[str], None]
) -> int:
    """Copy a step of a run in an object store to `folder`, verified, unless it is there; return
    its number. Other steps that were copied before are deleted, unless they are in use.

    step: as in `training.restore.restore_model`. With "latest", `warn` gets a message about each
        newer step that is damaged.

    Raises `UsageError` if there is no such step, or if it is damaged; `StorageError` if the store
    can't be read.
    """
    store = open_store(url)
    steps = steps_in(store)
    known = f"its steps: {', '.join(map(str, steps))}" if steps else "there are none yet"
    if step == "best":
        number = _best_step(steps, config)
        if number is None:
            raise UsageError(f"--step=best: no checkpoint in {url} was evaluated; {known}")
        candidates = [number]
    elif step == "latest":
        candidates = list(reversed(steps))
    else:
        candidates = [int(step)] if step.isdecimal() and int(step) in steps else []
        if not candidates:
            raise UsageError(f"--step={step}: no such checkpoint in {url}; {known}")
    with one_writer(folder):
        remove_leftovers(folder / CHECKPOINTS)
        for number in candidates:
            try:
                _fetch(steps[number], folder / CHECKPOINTS / str(number))
            except Damaged as damage:
                if step != "latest":
                    raise UsageError(f"{damage}; {known}") from None
                warn(f"checkpoint {number} is not used: {damage}")
                continue
            for other in finished_steps(folder / CHECKPOINTS):
                if other != number:
                    remove_step(folder / CHECKPOINTS / str(other))
            return number
    raise UsageError(
        f"none of the checkpoints in {url} is whole" if steps else f"{url} holds no checkpoint yet"
    )


def _fetch(step: Store, target: Path) -> None:
    """Copy a step to `target`, unless this very step is there. Raises as `fetch_step` does."""
    if target.exists():
        with contextlib.suppress(Damaged):
            if read_manifest(target)["digest"] == read_remote_manifest(step)["digest"]:
                return
        # Another run was begun at this URL.
        if not (target / MANIFEST).exists():
            shutil.rmtree(target)
        elif not remove_step(target):
            raise UsageError(f"{target}, an earlier {step.url}, is in use: try again later")
    fetch_step(step, target)


def _best_step(steps: Mapping[int, Store], config: Config) -> int | None:
    """Return the best step by `checkpoint.best_metric`; None if none was evaluated."""
    with tempfile.TemporaryDirectory() as scratch:
        for number, step in steps.items():
            path = Path(scratch) / str(number) / MANIFEST
            path.parent.mkdir()
            with contextlib.suppress(FileNotFoundError):
                path.write_bytes(step.read(MANIFEST))
        return best_step(Path(scratch), BestMetric.of(config))
