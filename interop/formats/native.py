"""Format `safetensors`: weights under our names, and `triform.json`, from which the module can be
built.

A tensor is called `params.NAME` or `statistics.NAME`, where NAME is its dotted path in the module.
Layers that were scanned are stacked.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.reading.inputs import TOKENIZER
from configs.schema.config import Config
from interop.exported import NAME, Exported
from interop.folder import Folder
from interop.formats.registry import Arrays
from interop.formats.source import Source
from interop.tensor_files import write_tensors
from training.model_def import ModelDef

PARAMS, STATISTICS = "params.", "statistics."


def obstacle(config: Config, data_spec: DataSpec) -> str | None:
    """Return None: every model can be written."""
    return None


def write(source: Source, out: Path) -> Sequence[str]:
    """Write the folder `out`."""
    write_folder(source, out, "safetensors")
    return ()


def write_folder(source: Source, out: Path, format_name: str) -> None:
    """Write the folder `out` for a format whose arrays are read as those of this one."""
    out.mkdir()
    tensors: dict[str, NDArray] = {}
    for prefix, arrays in ((PARAMS, source.params()), (STATISTICS, source.statistics())):
        tensors |= {prefix + name: array for name, array in arrays.items()}
    write_tensors(tensors, out)
    write_description(source, out, format_name)


def write_description(source: Source, out: Path, format_name: str) -> None:
    """Write `triform.json`, and `tokenizer.json` if there is a tokenizer, into the folder `out`."""
    (out / NAME).write_text(description(source, format_name).text(), encoding="utf-8")
    if source.tokenizer is not None:
        shutil.copyfile(source.tokenizer, out / TOKENIZER)


def description(source: Source, format_name: str) -> Exported:
    """Return the description of a model with merged weights."""
    manifest = source.restored.manifest
    config = source.config.model_dump(mode="json")
    config["train"]["lora"]["rank"] = None  # The written weights are merged.
    config["data"]["cache_dir"] = None  # a path of this machine
    return Exported(
        format_name,
        source.restored.step,
        config,
        manifest["data"],
        source.metrics,
        manifest.get("special_tokens"),
    )


def read_arrays(path: Path, model_def: ModelDef) -> Arrays:
    """Return the parameters and the batch statistics of a folder, by their dotted names. Raises
    `UsageError` if a file is missing or damaged."""
    opened = Folder(path)
    params, statistics = (
        {n.removeprefix(prefix): opened.tensor(n) for n in opened.names if n.startswith(prefix)}
        for prefix in (PARAMS, STATISTICS)
    )
    return params, statistics
