"""Reads text that every machine has: the code of the running Python's standard library."""

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from data.progress import Progress
from data.sources.documents import opened_documents, read_text_files
from data.sources.rows import Opened, View
from data.sources.source import hold_out_validation

LEFT_OUT = frozenset({
    "test", "tests", "idle_test",  # tests
    "encodings", "pydoc_data",  # tables
    "site-packages", "dist-packages", "__pycache__", "lib-dynload",  # not part of the library
})  # fmt: skip


def open_modules(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the corpus. Each module is a document, sorted by name.

    About `data.validation_fraction` of the documents is held out, chosen by a hash of their names.
    Raises UsageError if this Python has no source files.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    named = {folder / name: name for name in sorted(_modules(folder))}
    files = read_text_files(
        named, "replace", settings, str(folder), progress=progress, stage="opening modules"
    )
    if len(files) < 2:
        raise UsageError(
            f"{folder} holds no sources of Python's standard library: install a Python with them, "
            "or train on files of your own (data.source=text_files)"
        )
    documents, share = hold_out_validation({"train": files}, settings)
    return opened_documents(documents, share, view, invalid_utf8="replace")


def _modules(folder: Path) -> Iterator[str]:
    """Yield the paths of the module files in `folder`, relative to it."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in files:
            if name.endswith(".py"):
                yield (Path(parent) / name).relative_to(folder).as_posix()
