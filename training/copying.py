"""Copies checkpoints to another place, and verifies the copies."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from configs.files import write_durably
from storage.store import Store
from training.manifest import (
    CHECKPOINTS,
    MANIFEST,
    Damaged,
    StepLock,
    check_files,
    read_manifest,
    verify,
)
from training.remote_steps import fetch_step, upload_step

BESIDE = ("config.json", "tokenizer.json", "metrics.jsonl", "loss_spikes.json")
"""What a run needs of its workdir to go on, beside the checkpoints."""


def copy_step(source: Path, target: Path) -> int:
    """Copy the folder of a step to `target`, a new folder; return the bytes of its files.

    The manifest is written last, after the copied files were read again and compared with it. A run
    that is still training does not delete the step meanwhile.

    Raises `Damaged`, which names the damaged files of `source`, or those of `target` if it is the
    copy that differs; FileNotFoundError if the step is being removed.
    """
    with StepLock(source):
        manifest = read_manifest(source)
        try:
            for name in manifest["files"]:
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, path)
            check_files(target, manifest)
        except (FileNotFoundError, Damaged):
            verify(source)
            raise
        write_durably(target / MANIFEST, (source / MANIFEST).read_bytes())
    return sum(size for size, *_ in manifest["files"].values())


def copy_workdir(source: Path, target: Path, steps: Iterable[Path]) -> dict[str, int]:
    """Copy a workdir to `target`, a new folder: the folders `steps` of its checkpoints, and what a
    run needs beside them. Return the bytes of each step, by its name.

    Steps that a run deletes meanwhile are left out. Raises `Damaged` as `copy_step` does.
    """
    target.mkdir()
    copied = {}
    for step in steps:
        try:
            copied[step.name] = copy_step(step, target / step.parent.name / step.name)
        except FileNotFoundError:
            if (step / MANIFEST).exists():
                raise
    for name in BESIDE:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    return copied


def fetch_workdir(source: Store, target: Path, steps: Mapping[int, Store]) -> dict[str, int]:
    """Copy a workdir from a store to `target`, as `copy_workdir` does. steps: those to copy.

    Raises `Damaged` as `fetch_step` does; `StorageError` if the store fails.
    """
    target.mkdir()
    copied = {
        str(number): fetch_step(step, target / CHECKPOINTS / str(number))
        for number, step in steps.items()
    }
    for name in source.list():
        if name in BESIDE:
            (target / name).write_bytes(source.read(name))
    return copied


def upload_workdir(source: Path, target: Store, steps: Iterable[Path]) -> dict[str, int]:
    """Copy a workdir to a store, as `copy_workdir` does. Raises `Damaged` and `StorageError` as
    `upload_step` does."""
    for name in BESIDE:
        if (source / name).exists():
            target.write(name, (source / name).read_bytes())
    copied = {}
    for step in steps:
        try:
            copied[step.name] = upload_step(step, target.below(f"{CHECKPOINTS}/{step.name}"))
        except FileNotFoundError:
            if (step / MANIFEST).exists():
                raise
    return copied
