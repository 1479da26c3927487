"""Exported models for tests: of the workdirs that are kept, and copies with changed tensors."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from safetensors.numpy import load_file, save_file

import export
from configs.reading.saved import read_config
from parallel.mesh import flat_mesh
from tests.golden.workdirs import WORKDIRS
from training.restore import Restored, restore_model


def restored(workdir: Path) -> Restored:
    """The newest step of a workdir, on one device."""
    mesh = flat_mesh(jax.devices()[:1])
    config = read_config(workdir)
    return restore_model(workdir, config, step="latest", weights=None, mesh=mesh, warn=print)


def exported(name: str, out: Path, *flags: str, format: str = "safetensors") -> Path:
    """What export.py writes of a kept workdir."""
    command = [f"--workdir={WORKDIRS / name}", f"--format={format}", f"--out={out}", *flags]
    assert export.main(command) == 0
    return out


def changed(folder: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of an exported folder whose tensors are changed in place."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors")
    return out
