"""Writes files atomically and durably: after a power cut, a file has its old or its new content.

All files that a run needs to resume are written with these functions.
"""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""Begins the small texts that Git LFS leaves in place of large files."""


def write_durably(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`. Readers see the old file or the complete new one.

    When this function returns, the file and its name are on the disk. If the process is killed
    while writing, an unused file `.NAME.*.writing` may remain.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError that is raised in the context the name of the file: errors of files that are
    already open have none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, to write a file or a folder there; at the end of
    the context it is synced to the disk and gets the name `path`.

    After an exception, what was written is deleted. If the process is killed, an unused
    `.NAME.*.writing` may remain. Raises FileExistsError if `path` exists by then.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.writing")
    is_taken = False
    try:
        yield temporary
        if temporary.is_dir():
            sync_tree(temporary)
            path.mkdir()
        else:
            sync_file(temporary)
            path.touch(exist_ok=False)
        is_taken = True  # by something empty, which is replaced
        temporary.replace(path)
    except BaseException:
        for written in (temporary, path) if is_taken else (temporary,):
            if written.is_dir():
                shutil.rmtree(written, ignore_errors=True)
            else:
                written.unlink(missing_ok=True)
        raise
    sync_folder(path.absolute().parent)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, and sync their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Sync `folder` and everything in it to the disk. For files written by other libraries."""
    sync_files(path for path in folder.rglob("*") if path.is_file())
    sync_folders(folder)


def sync_files(paths: Iterable[Path]) -> None:
    """Sync the bytes of files to the disk, several at once."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync_file, list(paths)))


def sync_folders(folder: Path) -> None:
    """Sync `folder` and all folders in it to the disk: the names of the files, not their
    contents."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)


def sync_file(path: Path) -> None:
    """Sync the bytes of `path` to the disk. Raises OSError if the disk fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync `folder` itself to the disk: the names of its files, not their contents."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems can not sync folders; the rename alone must suffice there.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
