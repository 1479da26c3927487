"""Folders in the cache of prepared data, each built once and atomically."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.files import make_folder, sync_folder, sync_tree

_SIZES = "files.json"  # size of each file of a folder, in bytes


def cache_dir(settings: Any) -> Path:
    """Return the cache folder: `data.cache_dir`, else $TRIFORM_CACHE, else ~/.cache/triform."""
    folder = settings.cache_dir or os.environ.get("TRIFORM_CACHE") or "~/.cache/triform"
    return Path(folder).expanduser().absolute()


def digest(value: Any) -> str:
    """Return the SHA-256, in hexadecimal, of any value that JSON can represent."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def build_once(folder: Path, build: Callable[[Path], None]) -> None:
    """Call `build` to build `folder`, unless it exists.

    `build` is called with a temporary folder next to `folder`, which is renamed when complete. So
    an interrupted build is never taken for a finished one. If several processes need the same
    folder, one builds it and the others wait.

    Raises UsageError if the cache is not writable, or if a file of the folder is missing or has
    changed its size. (ArrayRecord finds damage that keeps the size, when a record is read.)
    """
    if not folder.exists():
        _build(folder, build)
    _verify(folder)


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    with _locked(folder):
        if folder.exists():
            return
        prefix = f".{folder.name}.incomplete-"
        for left_over in folder.parent.glob(f"{prefix}*"):  # left by a process that was killed
            shutil.rmtree(left_over)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            build(temporary)
            sizes = {
                file.relative_to(temporary).as_posix(): file.stat().st_size
                for file in sorted(temporary.rglob("*"))
                if file.is_file()
            }
            (temporary / _SIZES).write_text(json.dumps(sizes, indent=1))
            temporary.chmod(0o777 & ~_umask())  # the default permissions of a new folder
            sync_tree(temporary)
            temporary.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _verify(folder: Path) -> None:
    try:
        sizes = json.loads((folder / _SIZES).read_text())
    except (OSError, ValueError):
        raise _damaged(folder, _SIZES, "it can't be read") from None
    for name, size in sizes.items():
        file = folder / name
        if not file.exists():
            raise _damaged(folder, name, "it is missing")
        if file.stat().st_size != size:
            raise _damaged(folder, name, f"it has {file.stat().st_size} of {size} bytes")


def _damaged(folder: Path, name: str, what: str) -> UsageError:
    return UsageError(
        f"{folder / name} is damaged: {what}. Delete the folder {folder}: it will be made again"
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`. The system releases it when the process ends, even if killed."""
    try:
        make_folder(folder.parent)
        lock = folder.with_name(f".{folder.name}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise UsageError(
            f"{folder.parent} can't be written to ({error.strerror}): give another folder for "
            "prepared data as data.cache_dir, or in the environment as TRIFORM_CACHE"
        ) from None
    with lock:
        yield


def _umask() -> int:
    """Return the process's umask, which can be read only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
