"""Files and folders that outlast a power cut: whole, or as they were before.

What a run can't go on without is written with these functions and no others.
"""

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


def write_durably(path: Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8) so that a reader finds the old file or the new one, whole.

    File and folder are on the disk when it returns. A process that is killed on the way may leave
    a `.NAME.*.writing` behind, which nothing reads.
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


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it where they are missing; their names are on the disk when it
    returns."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)


def sync_tree(folder: Path) -> None:
    """Bring every file and folder under `folder`, whoever wrote them, and itself to the disk."""
    paths = [folder, *folder.rglob("*")]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync_file, [path for path in paths if path.is_file()]))
    for path in paths:
        if path.is_dir():
            sync_folder(path)


def sync_file(path: Path) -> None:
    """Bring the bytes of `path` to the disk. Raises OSError where the disk does not take them."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems sync no folders: there the renaming is all there is.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
