"""Reads what a GGUF file of ours says of its model, without JAX."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.errors import UsageError, blaming
from interop.exported import Exported
from interop.pointers import refuse_pointer

if TYPE_CHECKING:
    from gguf import GGUFReader

DESCRIPTION = "triform.description"
TOKENIZER = "tokenizer.huggingface.json"


def read_description(path: Path) -> Exported:
    """Return the description of a file. Raises `UsageError` if it is damaged or not ours."""
    return Exported.read(_text(opened(path), DESCRIPTION, path), path)


def read_tokenizer(path: Path) -> str:
    """Return the text of tokenizer.json. Raises `UsageError` if the file is damaged or not ours."""
    return _text(opened(path), TOKENIZER, path)


def opened(path: Path) -> "GGUFReader":
    """Open a file. Raises `UsageError` if it is missing or damaged."""
    gguf = library()
    if not path.is_file():
        raise UsageError(f"{path} is not there")
    refuse_pointer(path)
    with blaming(f"{path} is no GGUF file, or is damaged"):
        return gguf.GGUFReader(path)


def library() -> Any:
    """Return the package gguf. Raises `UsageError` if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UsageError("GGUF files need the package gguf: pip install -e '.[export]'") from None
    return gguf


def _text(reader: "GGUFReader", key: str, path: Path) -> str:
    field = reader.get_field(key)
    with blaming(f"{path} is damaged: {key}"):
        text = None if field is None else field.contents()
    if not isinstance(text, str):
        raise UsageError(f"{path} was not written by export.py: it has no {key}")
    return text
