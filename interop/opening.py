"""Opens an exported model, so that every command can use it as the model of a workdir."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.schema.config import Config
from interop.exported import NAME, Exported
from interop.formats import native
from training.model_def import build_model_def
from training.restore import Restored
from training.trees import Tree, flat, nested


@dataclass(frozen=True)
class Opened:
    """An exported model whose arrays are not read yet.

    path: the folder. exported: its description. config: its configuration.
    """

    path: Path
    exported: Exported
    config: Config

    def restore(self, mesh: Mesh) -> Restored:
        """Read the arrays onto a mesh. Raises `UsageError` if one is missing, unknown or has
        another shape; the message names it."""
        model_def = build_model_def(self.config, self.exported.data_spec, mesh)
        params, statistics = native.read_arrays(self.path)
        manifest: dict[str, Any] = {
            "step": self.exported.step,
            "data": self.exported.data,
            "metrics": self.exported.metrics,
            "config": self.exported.config,
        }
        return Restored(
            self.exported.step,
            manifest,
            model_def,
            _placed(params, model_def.abstract_params, self.path),
            _placed(statistics, model_def.abstract_statistics, self.path),
        )


def open_model(path: Path, overrides: Mapping[str, str] | None = None) -> Opened:
    """Read the description of an exported model. overrides: new values of fields of its
    configuration. Raises `UsageError` if `path` is none, or is damaged."""
    if not path.exists():
        raise UsageError(f"--from={path} is not there")
    file = path / NAME
    if not file.is_file():
        raise UsageError(f"--from={path} holds no exported model: it has no {NAME}")
    try:
        exported = Exported.read(file.read_text(encoding="utf-8"), file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is damaged: {error}") from None
    return Opened(path, exported, exported.configuration(overrides))


def _placed(arrays: Mapping[str, NDArray], abstract: Tree, path: Path) -> Tree:
    """Return the arrays of a tree on the devices, with the dtypes and shardings of `abstract`."""
    wanted = flat(abstract)
    faults = [f"lacks {name}" for name in wanted.keys() - arrays.keys()]
    faults += [f"has {name}, which is unknown" for name in arrays.keys() - wanted.keys()]
    faults += [
        f"has {name} of shape {list(arrays[name].shape)} in place of {list(leaf.shape)}"
        for name, leaf in wanted.items()
        if name in arrays and arrays[name].shape != leaf.shape
    ]
    if faults:
        more = f", and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise UsageError(f"{path} does not fit its {NAME}: it {'; '.join(faults[:3])}{more}")
    return nested(
        {
            name: jax.device_put(np.asarray(arrays[name]).astype(leaf.dtype), leaf.sharding)
            for name, leaf in wanted.items()
        }
    )
