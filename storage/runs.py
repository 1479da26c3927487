"""The part of a run in a store that must be known before JAX starts: its configuration."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from configs.errors import UsageError
from configs.files import make_folder, write_durably
from configs.remote import folder_in_cache
from storage.store import open_store

_CONFIG = "config.json"
_FILES = (_CONFIG, "tokenizer.json", "report.html")


def fetch_settings(url: str) -> Path:
    """Copy the configuration, the tokenizer and the report of a run in a store to a folder of the
    cache; return the folder. A run never writes to it.

    Raises `UsageError` if there is no run, `StorageError` if the store can't be read.
    """
    store, folder = open_store(url), folder_in_cache(url, "models")
    with one_writer(folder):
        for name in _FILES:
            try:
                write_durably(folder / name, store.read(name))
            except FileNotFoundError:
                if name == _CONFIG:
                    raise UsageError(f"{url} holds no run: it has no {name}") from None
                (folder / name).unlink(missing_ok=True)
    return folder


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Make a folder of the cache, and let one process at a time write to it."""
    make_folder(folder)
    with (folder.parent / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
