"""Folders in the cache of prepared data, each built once and atomically."""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.files import make_folder, sync_folder, sync_tree
from configs.remote import default_cache

_SIZES = "files.json"  # size of each file of a folder, in bytes


def cache_dir(settings: Any) -> Path:
    """Return the cache folder: `data.cache_dir`, else $TRIFORM_CACHE, else ~/.cache/triform."""
    if settings.cache_dir is None:
        return default_cache()
    return Path(settings.cache_dir).expanduser().absolute()


def digest(value: Any) -> str:
    """Return the SHA-256, in hexadecimal, of any value that JSON can represent."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def build_once(folder: Path) -> Iterator[Path | None]:
    """Yield a temporary folder to write the files of `folder` to; None if `folder` exists.

    The temporary folder is next to `folder`, and gets its name at the end of the context. So an
    interrupted build is never taken for a finished one. If several processes need the same folder,
    one builds it and the others wait.

    Raises UsageError if the cache is not writable, or if a file of the folder is missing or has
    changed its size. (ArrayRecord finds damage that keeps the size, when a record is read.)
    """
    if not folder.exists():
        with locked(folder):
            if not folder.exists():
                with _renamed_to(folder) as temporary:
                    yield temporary
                return
    _verify(folder)
    yield None


@contextlib.contextmanager
def _renamed_to(folder: Path) -> Iterator[Path]:
    temporary = folder.with_name(f".{folder.name}.incomplete")
    if temporary.exists():  # left by a process that was killed
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        yield temporary
        sizes = {
            file.relative_to(temporary).as_posix(): file.stat().st_size
            for file in sorted(temporary.rglob("*"))
            if file.is_file()
        }
        (temporary / _SIZES).write_text(json.dumps(sizes, indent=1))
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
def locked(folder: Path) -> Iterator[None]:
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
