"""Reads a folder that `save_pretrained` wrote: config.json, and tensors in safetensors files."""

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes  # noqa: F401  (adds bfloat16 to NumPy; many weights are stored in it)
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from configs.errors import UsageError, blaming
from configs.reading.inputs import TOKENIZER
from interop.json_fields import JsonFields
from interop.pointers import refuse_pointer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
PREPROCESSOR = "preprocessor_config.json"
ADAPTER_CONFIG = "adapter_config.json"

_FLOAT_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""NumPy's names of the dtypes that weights may have, by those of safetensors."""


class Folder:
    """Reads the folder of a model.

    The constructor reads only the headers of the safetensors files; `tensor` reads one tensor.
    Raises `configs.UsageError` if the folder or a file is missing or damaged, or if the folder
    holds an adapter.

    leave_out: the dotted names of fields that count as missing in config.json and
        preprocessor_config.json.
    """

    def __init__(self, path: str | Path, leave_out: Collection[str] = ()):
        self.path, self._leave_out = Path(path), leave_out
        self._json: dict[str, JsonFields] = {}
        if not self.path.is_dir():
            raise UsageError(f"{path} is no folder: give one that holds {CONFIG} and {WEIGHTS}")
        self._refuse_adapter()
        self._files = self._find_files()

    @cached_property
    def config(self) -> JsonFields:
        """The fields of config.json."""
        return JsonFields(self.path / CONFIG, leave_out=self._leave_out)

    @property
    def names(self) -> list[str]:
        """The names of all tensors."""
        return list(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, from the header of its file."""
        return tuple(self._slice(name).get_shape())

    def dtypes(self) -> set[str]:
        """Return the dtypes of the floating-point tensors."""
        found = {self._slice(name).get_dtype() for name in self._files}
        return {_FLOAT_DTYPES[name] for name in found if name in _FLOAT_DTYPES}

    def tensor(self, name: str) -> NDArray:
        """Return a tensor in its stored dtype. Raises `UsageError` if it is not floating-point."""
        dtype, file = self._slice(name).get_dtype(), self._files[name]
        if dtype not in _FLOAT_DTYPES:
            names = tuple(_FLOAT_DTYPES)
            raise UsageError(f"{file}: {name} is stored as {dtype}, not as one of {names}")
        return file.get_tensor(name)

    def refuse(self, name: str, instead: str) -> NoReturn:
        """Raise `UsageError`, because our models do not support the values of a tensor.

        instead: a text that says which values they support.
        """
        raise UsageError(f"{self.path}: {name} can't be had here: {instead}")

    def json_file(self, name: str) -> JsonFields | None:
        """Return the JSON file `name` of the folder; None if it does not exist."""
        path = self.path / name
        if name not in self._json and path.exists():
            leave_out = self._leave_out if name == PREPROCESSOR else ()
            self._json[name] = JsonFields(path, leave_out=leave_out)
        return self._json.get(name)

    def left_out(self) -> dict[str, str]:
        """Return the file of each field that was left out, by the field's dotted name."""
        files = self.config, self.json_file(PREPROCESSOR)
        return {
            name: str(file.path) for file in files if file is not None for name in file.left_out
        }

    def special_tokens(self) -> dict[str, int]:
        """Return the ids of the tokenizer's special tokens by their role, such as "mask", "bos" or
        "eos". Empty if there is no tokenizer_config.json that names them."""
        config, ids = self.json_file(TOKENIZER_CONFIG), self.added_tokens()
        tokens = {}
        for name, value in config or ():
            text = value["content"] if isinstance(value, dict) and "content" in value else value
            if name.endswith("_token") and isinstance(text, str) and text in ids:
                tokens[name.removesuffix("_token")] = ids[text]
        return tokens

    def added_tokens(self) -> dict[str, int]:
        """Return the ids of the `added_tokens` of tokenizer.json, by their text."""
        tokenizer = self.json_file(TOKENIZER)
        added = [] if tokenizer is None else tokenizer.sections("added_tokens")
        return {token.text("content"): token.token_id("id") for token in added}

    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the classes; None if they are only numbered."""
        labels = self.config.section("id2label")
        numbers = list(map(str, range(len(labels))))
        if not labels or labels.keys() != set(numbers):
            return None
        names = tuple(str(labels[number]) for number in numbers)
        return None if all(name == f"LABEL_{n}" for n, name in enumerate(names)) else names

    def _refuse_adapter(self) -> None:
        """Raise `UsageError` if the folder holds an adapter of PEFT."""
        path = self.path / ADAPTER_CONFIG
        if not path.exists():
            return
        base = JsonFields(path).value("base_model_name_or_path", None)
        beside = ", beside a model to which transformers adds it" if self._has_weights() else ""
        raise UsageError(
            f"{self.path} holds an adapter of PEFT for {base or 'a model that it does not name'}"
            f"{beside}: give the folder of that model, or add the adapter to it and save both as "
            "one model (PeftModel.from_pretrained(base, adapter).merge_and_unload()"
            ".save_pretrained(...))"
        )

    def _has_weights(self) -> bool:
        return any((self.path / name).exists() for name in (WEIGHTS, INDEX))

    def _find_files(self) -> dict[str, "_File"]:
        if (self.path / WEIGHTS).exists():
            file = _File(self.path / WEIGHTS)
            return dict.fromkeys(file.names, file)
        if not (self.path / INDEX).exists():
            others = sorted(file.name for file in self.path.glob("*.bin"))
            instead = (
                f"; {others[0]} is no safetensors file: save the model as one" if others else ""
            )
            raise UsageError(f"{self.path} has neither {WEIGHTS} nor {INDEX}{instead}")
        parts = JsonFields(self.path / INDEX).value("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(p, str) for p in parts.values()):
            raise UsageError(f"{self.path / INDEX} is damaged: weight_map is no table of files")
        for part in parts.values():
            if Path(part).name != part:
                raise UsageError(
                    f"{self.path / INDEX} is damaged: weight_map has {part}, which is not the name "
                    "of a file in the folder"
                )
        files = {part: _File(self.path / part) for part in sorted(set(parts.values()))}
        for name, part in parts.items():
            if name not in files[part].names:
                raise UsageError(f"{self.path / part} is damaged: {INDEX} says it holds {name}")
        return {name: files[part] for name, part in parts.items()}

    def _slice(self, name: str) -> Any:
        return self._files[name].open.get_slice(name)


class _File:
    """A safetensors file, mapped into memory."""

    def __init__(self, path: Path):
        self.path = path
        if not path.exists():
            raise UsageError(f"{path} is missing")
        refuse_pointer(path)
        with blaming(f"{path} is damaged"):
            self.open = safe_open(path, framework="numpy")
            self.names = sorted(self.open.keys())

    def get_tensor(self, name: str) -> NDArray:
        with blaming(f"{self.path} is damaged: {name}"):
            return np.asarray(self.open.get_tensor(name))

    def __str__(self) -> str:
        return str(self.path)
