"""Files and folders that a configuration names and that have to be there."""

import glob
import os
from pathlib import Path

from configs.errors import UsageError
from configs.schema import Config
from configs.schema.data import TextFiles, TokenizerFile


def check_inputs(config: Config) -> None:
    """Raises `UsageError` where the user's text, tokenizer or cache is missing or no such thing."""
    data = config.data
    if isinstance(data, TextFiles):
        _check_text(data.path)
    tokenizer = getattr(data, "tokenizer", None)
    if isinstance(tokenizer, TokenizerFile):
        _check_tokenizer(tokenizer.path)
    if data.cache_dir is not None and Path(data.cache_dir).is_file():
        raise UsageError(f"data.cache_dir={data.cache_dir} is a file: give a folder")


def _check_text(path: str | None) -> None:
    if path is None:
        raise UsageError(
            "data.path is not given: say where the text is, --config.data.path=FILE (or a folder, "
            "or a glob in quotes)"
        )
    if Path(path).is_file():
        if not Path(path).stat().st_size:
            raise UsageError(f"data.path={path} is an empty file")
        return
    if Path(path).is_dir():
        if not any(files for _, _, files in os.walk(path)):
            raise UsageError(f"data.path={path} is a folder without files")
        return
    if glob.has_magic(path):
        if not any(Path(one).is_file() for one in glob.iglob(path, recursive=True)):
            raise UsageError(f"data.path={path}: no file matches, seen from {Path.cwd()}")
        return
    raise UsageError(f"data.path={path} is not there{_hint(path)}")


def _check_tokenizer(path: str | None) -> None:
    if path is None:
        raise UsageError(
            "data.tokenizer.path is not given: say where the tokenizer.json is, "
            "--config.data.tokenizer.path=FILE, or use another data.tokenizer.kind"
        )
    if not Path(path).is_file():
        reason = "is a folder" if Path(path).is_dir() else f"is not there{_hint(path)}"
        raise UsageError(f"data.tokenizer.path={path} {reason}: give a tokenizer.json")


def _hint(path: str) -> str:
    if path.startswith("~"):
        return " (~ is not expanded here: write $HOME)"
    return "" if Path(path).is_absolute() else f", seen from {Path.cwd()}"
