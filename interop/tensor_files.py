"""Writes tensors as safetensors files: one file, or several with an index."""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  (adds bfloat16 to NumPy)
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from interop.folder import INDEX, WEIGHTS

MOST_BYTES = 5_000_000_000
"""Size of a file, at most, unless one tensor is larger."""


def write_tensors(
    tensors: Mapping[str, NDArray], folder: Path, *, most_bytes: int = MOST_BYTES
) -> None:
    """Write tensors into `folder` as `save_pretrained` of transformers does: `model.safetensors`,
    or parts of at most `most_bytes` and their index."""
    parts: list[dict[str, NDArray]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > most_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = np.asarray(tensor, order="C")
        size += tensor.nbytes
    if len(parts) == 1:
        _save(parts[0], folder / WEIGHTS)
        return
    files: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        _save(part, folder / file)
        files |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _save(tensors: Mapping[str, NDArray], file: Path) -> None:
    file.touch()  # The library would let only its owner read it.
    mode = file.stat().st_mode
    # Older versions of transformers refuse a file without the format.
    save_file(dict(tensors), file, {"format": "pt"})
    file.chmod(mode)
