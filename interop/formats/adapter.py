"""Writes LoRA pairs as an adapter of the library PEFT, for the model with which the run began."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from configs.errors import UsageError
from interop.family import Family
from interop.folder import ADAPTER_CONFIG, CONFIG
from interop.formats.source import Source
from interop.param_layout import param_layout, stack_of
from interop.tables import Kernel, Row, Scaled
from training.trees import matching

ADAPTER_WEIGHTS = "adapter_model.safetensors"

PREFIX = "base_model.model."
"""What PEFT writes before the name of each module."""

TASK_TYPES = {"next_tokens": "CAUSAL_LM", "target_tokens": "SEQ_2_SEQ_LM", "classes": "SEQ_CLS"}
"""PEFT's name of the task of a model of texts, for each output of ours. There is none for pictures:
the classes of PEFT for these tasks pass on tokens."""

RUN = "checkpoints"
"""A folder that only workdirs have."""

LORA = "lora"
"""Name of the subtree of the parameters that has the pairs of `training.lora`."""


def write_adapter(source: Source, family: Family, out: Path) -> Sequence[str]:
    """Write the weights and the configuration of the adapter into the folder `out`. Return notes
    for the user.

    Raises `UsageError` as `adapter_tensors` does.
    """
    settings = source.config.train.lora
    tensors, modules, whole_modules = adapter_tensors(source, family)
    base = source.config.train.initialize_from
    sees_pictures = source.data_spec.image_shape is not None
    output = source.config.task.model_output
    written = {
        "peft_type": "LORA",
        "task_type": None if sees_pictures else TASK_TYPES.get(output),
        "base_model_name_or_path": base,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": _inputs_first(family),
        "target_modules": modules,
        "modules_to_save": whole_modules or None,
        "inference_mode": True,
    }
    save_file(tensors, out / ADAPTER_WEIGHTS, {"format": "pt"})
    (out / ADAPTER_CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if base is not None and (Path(base) / CONFIG).is_file() and not (Path(base) / RUN).is_dir():
        return ()
    return (
        f"the adapter is for {base or 'the model with which the run began'}: export that with "
        "--format=huggingface, and give its folder as the base model",
    )


def adapter_tensors(
    source: Source, family: Family
) -> tuple[dict[str, NDArray], list[str], list[str]]:
    """Return the tensors of the adapter by PEFT's names, the names of the modules with a pair, and
    those of modules that were trained as a whole (`train.lora.train_also`).

    Raises `UsageError` for a run without LoRA, and for a parameter that is not one module of the
    family.
    """
    config, params = source.config, source.unmerged_params()
    if config.train.lora.rank is None:
        raise UsageError("--lora=adapter: this run has no LoRA pairs, as train.lora.rank is none")
    scanned = getattr(config.model, "scan_layers", False)
    own = {name: array for name, array in params.items() if not name.startswith(f"{LORA}.")}
    pairs = {
        name.removeprefix(f"{LORA}."): _layers_first(name, array, scanned)
        for name, array in params.items()
        if name.startswith(f"{LORA}.")
    }
    arrays = own | pairs
    layout = param_layout(arrays, scanned=scanned)

    def unrolled(leaves: Collection[str]) -> dict[str, NDArray]:
        """Return some of the arrays by their names in the model with unrolled layers."""
        places = {name: place for name, place in layout.items() if place.leaf in leaves}
        return {name: place.view(arrays) for name, place in places.items()}

    rows = {name: row for row in family.table.rows_of(unrolled(own)) for name in row.ours}
    tensors: dict[str, NDArray] = {}
    modules: list[str] = []
    for name, array in unrolled(pairs).items():
        kernel, letter = name.rsplit(".", 1)
        row = rows[kernel]
        transformation = row.transformation
        if isinstance(transformation, Scaled):
            array = array * array.dtype.type(2.0**transformation.exponent if letter == "b" else 1)
            transformation = transformation.of
        if len(row.ours) > 1 or not isinstance(transformation, Kernel):
            raise _no_module(kernel, row, family)
        module = _module(family.table.tensor_name(row))
        if letter == "a":
            modules.append(module)
            tensors[f"{PREFIX}{module}.lora_A.weight"] = _matrix(array.reshape(-1, array.shape[-1]))
        else:
            tensors[f"{PREFIX}{module}.lora_B.weight"] = _matrix(array.reshape(array.shape[0], -1))
    patterns = config.train.lora.train_also
    trained = set().union(*(matching(list(own), one, "train.lora.train_also") for one in patterns))
    whole: list[str] = []
    for name in unrolled(trained):
        row = rows[name]
        if len(row.ours) > 1:
            raise _no_module(name, row, family)
        whole.append(_module(family.table.tensor_name(row)))
    for name, array in unrolled(own).items():
        row = rows[name]
        tensor = family.table.tensor_name(row)
        if _module(tensor) in whole:
            tensors[PREFIX + tensor] = row.to_theirs([array])
    return tensors, modules, list(dict.fromkeys(whole))


def _matrix(array: NDArray) -> NDArray:
    """Return the matrix of a pair in PEFT's layout: [outputs, inputs]."""
    return np.ascontiguousarray(array.T)


def _layers_first(name: str, array: NDArray, scanned: bool) -> NDArray:
    """Return a matrix of a pair; if layers are stacked, they are its first dimension. (In B, they
    follow the rank.)"""
    is_stacked = scanned and stack_of(name.removeprefix(f"{LORA}.")) is not None
    return np.moveaxis(array, 1, 0) if is_stacked and name.endswith(".b") else array


def _no_module(name: str, row: Row, family: Family) -> UsageError:
    return UsageError(
        f"--lora=adapter: {name} is no linear layer of its own in {family.name}, but part of "
        f"{row.theirs}: use --lora=merged"
    )


def _module(tensor: str) -> str:
    return tensor.rpartition(".")[0]


def _inputs_first(family: Family) -> bool:
    kernels = [row.transformation for row in family.table.rows]
    return any(isinstance(one, Kernel) and one.inputs_first for one in kernels)
