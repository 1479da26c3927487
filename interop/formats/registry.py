"""The formats of exported models, by name."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.schema.config import Config
from interop.exported import FOREIGN, Exported

if TYPE_CHECKING:
    from interop.formats.source import Source
    from training.model_def import ModelDef

Arrays = tuple[Mapping[str, NDArray], Mapping[str, NDArray]]
"""Parameters and batch statistics, each by their dotted names."""


class Format(Protocol):
    """The module of a format."""

    def obstacle(self, config: Config, data_spec: DataSpec) -> str | None:
        """Return why the format can't hold this model; None if it can.

        The text names the settings that stand in the way, such as "model.pattern=RRA:
        transformers has no recurrent blocks".
        """
        ...

    def write(self, source: "Source", out: Path) -> Sequence[str]:
        """Write the model to `out`, a path that does not exist yet. Return notes for the user.

        Raises `UsageError` for an option of `source` that the format can't follow.
        """
        ...


class Reader(Protocol):
    """The module that reads what was written in a format."""

    def read_arrays(self, path: Path, model_def: "ModelDef") -> Arrays:
        """Return the arrays of the model `model_def`. Raises `UsageError` if they are damaged; the
        message names what is wrong."""
        ...


class FileReader(Protocol):
    """The module that reads the description and the tokenizer in a file that has all in it. It
    does not start JAX."""

    def read_description(self, path: Path) -> Exported:
        """Return what the file says of its model."""
        ...

    def read_tokenizer(self, path: Path) -> str | None:
        """Return its tokenizer.json as text; None without one."""
        ...


FORMATS = {
    "huggingface": "interop.formats.huggingface",
    "safetensors": "interop.formats.native",
    "stablehlo": "interop.formats.stablehlo",
    "gguf": "interop.formats.gguf",
}
"""The module of each format that can be written."""

READERS = {
    "safetensors": "interop.formats.native",
    "stablehlo": "interop.formats.native",
    "huggingface": "interop.formats.transformers_folder",
    "gguf": "interop.formats.gguf",
    FOREIGN: "interop.formats.transformers_folder",
}
"""The module that reads each format. FOREIGN: a folder that another project wrote."""

FILES = {".gguf": "interop.formats.gguf_file"}
"""The module that reads the description in a file, by the end of the file's name."""


def format_module(name: str) -> Format:
    """Return the module of a format."""
    return cast(Format, importlib.import_module(FORMATS[name]))


def reader(name: str) -> Reader:
    """Return the module that reads a format. Raises KeyError for one that can't be read."""
    return cast(Reader, importlib.import_module(READERS[name]))


def file_reader(path: Path) -> FileReader | None:
    """Return the module that reads a file; None for a file of no known format."""
    name = FILES.get(path.suffix)
    return None if name is None else cast(FileReader, importlib.import_module(name))


def possible_formats(config: Config, data_spec: DataSpec) -> list[str]:
    """Return the names of the formats that can hold a model."""
    return [name for name in FORMATS if format_module(name).obstacle(config, data_spec) is None]
