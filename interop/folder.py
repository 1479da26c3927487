"""A folder as `save_pretrained` leaves it: config.json, and tensors in safetensors files."""

from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (gives NumPy bfloat16, in which many weights are kept)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from configs.errors import UsageError
from interop.json_fields import JsonFields

CONFIG = "config.json"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_NUMBERS = ("F16", "BF16", "F32", "F64")


class Folder:
    """What a folder holds. `config`: the fields of its config.json; `names`: those of its tensors.

    Only headers are read before a tensor is asked for. Raises `configs.UsageError` for a folder
    or a file that is missing or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise UsageError(f"{path} is no folder: give one that holds {CONFIG} and {WHOLE}")
        self.config = JsonFields(self.path / CONFIG)
        self._files = self._find_files()

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header of its file."""
        return tuple(self._slice(name).get_shape())

    def tensor(self, name: str) -> NDArray:
        """A tensor as it is stored. Raises `UsageError` where it is not of floating point."""
        kind, file = self._slice(name).get_dtype(), self._files[name]
        if kind not in _NUMBERS:
            raise UsageError(f"{file}: {name} is stored as {kind}, not as one of {_NUMBERS}")
        return file.get_tensor(name)

    def other_json(self, name: str) -> JsonFields | None:
        """Another JSON file of the folder; None where there is none."""
        path = self.path / name
        return JsonFields(path) if path.exists() else None

    def _find_files(self) -> dict[str, "_File"]:
        if (self.path / WHOLE).exists():
            file = _File(self.path / WHOLE)
            return dict.fromkeys(file.names, file)
        if not (self.path / INDEX).exists():
            others = sorted(file.name for file in self.path.glob("*.bin"))
            instead = (
                f"; {others[0]} is no safetensors file: save the model as one" if others else ""
            )
            raise UsageError(f"{self.path} has neither {WHOLE} nor {INDEX}{instead}")
        places = JsonFields(self.path / INDEX).value("weight_map")
        if not isinstance(places, dict) or not all(isinstance(p, str) for p in places.values()):
            raise UsageError(f"{self.path / INDEX} is damaged: weight_map is no table of files")
        files = {name: _File(self.path / name) for name in sorted(set(places.values()))}
        for name, place in places.items():
            if name not in files[place].names:
                raise UsageError(f"{self.path / place} is damaged: {INDEX} says it holds {name}")
        return {name: files[place] for name, place in places.items()}

    def _slice(self, name: str) -> Any:
        return self._files[name].open.get_slice(name)


class _File:
    """One safetensors file, mapped into memory."""

    def __init__(self, path: Path):
        self.path = path
        if not path.exists():
            raise UsageError(f"{path} is missing")
        try:
            self.open = safe_open(path, framework="numpy")
            self.names = sorted(self.open.keys())
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} is damaged: {error}") from None

    def get_tensor(self, name: str) -> NDArray:
        return np.asarray(self.open.get_tensor(name))

    def __str__(self) -> str:
        return str(self.path)
