"""Reads checkpoints without their model and without JAX: what is in them, and how two differ.

Arrays are read by TensorStore, which Orbax writes them with, in blocks of a stored chunk.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (adds bfloat16 to NumPy)
import numpy as np

from configs.errors import UsageError
from configs.reading.inputs import path_hint
from training.manifest import CHECKPOINTS, ITEMS, MANIFEST, read_manifest, step_folders

_ELEMENTS = 1 << 22
"""Elements of two arrays that are compared at once, in float64."""

NOT_THERE = "(not there)"


@dataclass(frozen=True)
class Step:
    """One step of a run: its folder and its manifest.

    Its files are not verified. `manifest` raises `Damaged` if it can't be read.
    """

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the step."""
        return read_manifest(self.folder)

    @property
    def leaves(self) -> dict[str, Mapping[str, Any]]:
        """Return `shape`, `dtype` and, if it has any, `axes` of each array, by name."""
        return self.manifest["leaves"]

    @property
    def sizes(self) -> dict[str, int]:
        """Return the bytes of each array in memory, by name."""
        return {
            name: math.prod(leaf["shape"]) * np.dtype(leaf["dtype"]).itemsize
            for name, leaf in self.leaves.items()
        }

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all files of the step, without the manifest."""
        return sum(size for size, *_ in self.manifest["files"].values())

    @property
    def settings(self) -> dict[str, Any]:
        """Return the values of the configuration by field, such as `model.width`."""
        return dict(_settings(self.manifest["config"], ""))

    @property
    def position(self) -> dict[str, int]:
        """Return how far the run has read its training data.

        `batches` and `examples` that it has read; if the number of training examples is known
        (older checkpoints do not store it), also the `epoch`, counted from 1, of the next example,
        and `example_of_epoch`, its place in that epoch's order, counted from 0.
        """
        batches = self.manifest["step"]
        examples = batches * self.manifest["config"]["data"]["global_batch_size"]
        position = {"batches": batches, "examples": examples}
        if length := self.manifest["data"].get("examples"):
            epoch, within = divmod(examples, length)
            position |= {"epoch": epoch + 1, "example_of_epoch": within}
        return position

    def array(self, name: str) -> Any:
        """Open the array `name`: its parts are read from the disk as they are indexed."""
        import tensorstore

        item = next(one for one, fields in ITEMS.items() if name.partition(".")[0] in fields)
        folder = self.folder.absolute() / item
        is_zarr3 = json.loads((folder / "_METADATA").read_text(encoding="utf-8")).get("use_zarr3")
        spec = {
            "driver": "zarr3" if is_zarr3 else "zarr",
            "kvstore": {
                "driver": "ocdbt",
                "base": {"driver": "file", "path": f"{folder}/"},
                "path": name,
            },
            "fill_missing_data_reads": False,
        }
        return tensorstore.open(spec, open=True, read=True).result()


def find_steps(path: Path) -> list[Step]:
    """Return the steps at `path`, ascending, whether they are whole or not.

    path: a workdir, its folder `checkpoints`, or the folder of one step.

    Raises `UsageError` if there is none.
    """
    if (path / MANIFEST).is_file():
        return [Step(path)]
    if not path.is_dir():
        what = "is no folder" if path.exists() else f"is not there{path_hint(str(path))}"
        raise UsageError(f"{path} {what}: give a workdir, or the folder of a step")
    inside = path / CHECKPOINTS
    folder = inside if inside.is_dir() else path
    if steps := step_folders(folder):
        return [Step(folder / str(step)) for step in steps]
    if path.name.isdecimal():
        return [Step(path)]
    raise UsageError(f"{path} holds no checkpoint: give a workdir, or the folder of a step")


def find_step(path: Path, number: int | None) -> Step:
    """Return the step `number` of `path`, or the newest one that has a manifest if it is None.

    path: as in `find_steps`.

    Raises `UsageError` if there is no such step.
    """
    steps = find_steps(path)
    if number is None:
        finished = [one for one in steps if (one.folder / MANIFEST).is_file()]
        return (finished or steps)[-1]
    for one in steps:
        if one.folder.name == str(number):
            return one
    near = min(steps, key=lambda one: abs(int(one.folder.name) - number)).folder.name
    there = ", ".join(one.folder.name for one in steps)
    raise UsageError(f"--step={number}: {path} has no such step; the nearest is {near}, of {there}")


def differing_settings(one: Step, other: Step) -> dict[str, tuple[Any, Any]]:
    """Return the fields of the configuration that differ, with both values."""
    both = one.settings, other.settings
    pairs = {
        name: (both[0].get(name, NOT_THERE), both[1].get(name, NOT_THERE))
        for name in dict.fromkeys(itertools.chain(*both))
    }
    return {name: (a, b) for name, (a, b) in pairs.items() if a != b}


def differing_leaves(one: Step, other: Step) -> Iterator[dict[str, Any]]:
    """Yield a JSON object for each array that differs.

    All have `name`. An array of one step alone has `only_in`, 0 or 1. Two shapes, or two dtypes,
    are `shapes` or `dtypes`. If the shapes are equal and values differ, there are `elements`, how
    many of them are `different`, `max_absolute` and `max_relative` (|a - b| and |a - b| / max(|a|,
    |b|), of finite values) and `not_finite`, the number of pairs that differ and are not both
    finite. Two NaN are equal.

    Arrays are read one after the other, by chunks: no more than one chunk of each is in memory.
    """
    for name in dict.fromkeys(itertools.chain(one.leaves, other.leaves)):
        if name not in other.leaves or name not in one.leaves:
            yield {"name": name, "only_in": 0 if name in one.leaves else 1}
            continue
        a, b = one.leaves[name], other.leaves[name]
        found = {f"{key}s": [a[key], b[key]] for key in ("shape", "dtype") if a[key] != b[key]}
        if a["shape"] == b["shape"]:
            found |= _compare(one.array(name), other.array(name))
        if found:
            yield {"name": name, **found}


def _compare(a: Any, b: Any) -> dict[str, Any]:
    """Compare two stored arrays of one shape, chunk by chunk; return {} if they are equal."""
    chunks = [array.chunk_layout.read_chunk.shape or () for array in (a, b)]  # None for a scalar
    sides = [max(1, *pair) for pair in zip(*chunks, strict=True)]
    different, not_finite, absolute, relative = 0, 0, 0.0, 0.0
    for start in itertools.product(
        *(range(0, size, side) for size, side in zip(a.shape, sides, strict=True))
    ):
        place = tuple(slice(at, at + side) for at, side in zip(start, sides, strict=True))
        flat = [np.asarray(array[place].read().result()).reshape(-1) for array in (a, b)]
        for first in range(0, flat[0].size, _ELEMENTS):
            x, y = (part[first : first + _ELEMENTS].astype(np.float64) for part in flat)
            unequal = (x != y) & ~(np.isnan(x) & np.isnan(y))
            x, y = x[unequal], y[unequal]
            different += x.size
            finite = np.isfinite(x) & np.isfinite(y)
            not_finite += int(x.size - finite.sum())
            if finite.any():
                x, y = x[finite], y[finite]
                distance = np.abs(x - y)
                absolute = max(absolute, float(distance.max()))
                largest = np.maximum(np.abs(x), np.abs(y))
                relative = max(relative, float((distance / largest).max()))
    if not different:
        return {}
    return {
        "elements": math.prod(a.shape),
        "different": different,
        "max_absolute": absolute,
        "max_relative": relative,
        "not_finite": not_finite,
    }


def _settings(section: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
