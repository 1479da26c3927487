"""One step of a checkpoint folder: its manifest, the check of its files, and its lock.

`manifest.json` lists every file with its size and SHA-256, and every array with shape, dtype and
axes. It is written last and atomically, after everything else has reached the disk: a step counts
as saved if it has a manifest and its files match it. (Orbax restores flipped bits silently, and
can't tell a complete step from an interrupted one.)
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from configs.files import sync_file, sync_folder, sync_tree, write_durably

MANIFEST = "manifest.json"
FORMAT = 1

ITEMS = {
    "model": ("params", "statistics", "ema", "ema_statistics"),
    "training": ("step", "skipped", "optimizer"),
}
"""The fields of the state that each item of a checkpoint holds. An item is a folder of a step."""


class Damaged(Exception):
    """Raised for a step that must not be used; the message names the damaged files."""


def unfinished(folder: Path) -> str:
    """Return the message for a step without a manifest: writing it was interrupted."""
    return f"{folder} has no {MANIFEST}: its writing was never finished"


def write_manifest(
    folder: Path, contents: Mapping[str, Any], *, also_sync: Sequence[Path] = ()
) -> None:
    """Hash every file under `folder` and write the manifest: `contents` and the hashes.

    Every file and folder of the step, the two folders above it (up to the workdir), and the
    existing files of `also_sync` are synced first. After a power cut, no manifest then names a file
    that is not on the disk.
    """
    sync_tree(folder)
    for above in (folder.parent, folder.parent.parent):
        sync_folder(above)
    for path in also_sync:
        if path.exists():
            sync_file(path)
    manifest = {"format": FORMAT, **contents, "files": _hash_files(folder)}
    manifest["digest"] = digest_of(manifest)
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a step and check it against its own digest.

    Raises `Damaged` if it is missing, truncated, altered or of another format version.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Damaged(unfinished(folder)) from None
    except UnicodeDecodeError:
        raise Damaged(f"{path} is damaged (not UTF-8)") from None
    try:
        manifest = json.loads(text)
        digest, files = manifest["digest"], manifest["files"]
        assert isinstance(files, dict)
    except (ValueError, TypeError, KeyError, AssertionError):
        raise Damaged(f"{path} is damaged (not a whole manifest)") from None
    if digest != digest_of(manifest):
        raise Damaged(f"{path} is damaged (its digest differs)")
    if manifest["format"] != FORMAT:
        raise Damaged(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def step_folders(folder: Path) -> list[int]:
    """Return the numbers of the steps in `folder`, ascending, whether they are whole or not; [] if
    there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def read_manifests(folder: Path) -> dict[int, dict[str, Any]]:
    """Return the readable manifests by step, ascending."""
    manifests = {}
    for step in step_folders(folder):
        try:
            manifests[step] = read_manifest(folder / str(step))
        except Damaged:
            continue
    return manifests


def verify(folder: Path) -> dict[str, Any]:
    """Compare every file of a step with its manifest; return the manifest.

    Raises `Damaged` naming each file that is missing, truncated, altered or added.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file of a step with `manifest`. Raises `Damaged` as `verify` does."""
    expected, actual = manifest["files"], _hash_files(folder)
    faults = [f"{folder / name} is missing" for name in expected.keys() - actual.keys()]
    faults += [
        f"{folder / name} is not in the manifest" for name in actual.keys() - expected.keys()
    ]
    for name in expected.keys() & actual.keys():
        (size, digest), (size_now, digest_now) = expected[name], actual[name]
        if size_now != size:
            faults.append(f"{folder / name} has {size_now:,} of {size:,} bytes")
        elif digest_now != digest:
            faults.append(f"{folder / name} is damaged (its SHA-256 differs)")
    if faults:
        raise Damaged("; ".join(sorted(faults)))


class StepLock:
    """Protects a step from `remove_step` while it is read: `with StepLock(folder): ...`.

    It is an advisory lock (`flock`) on the manifest; the kernel releases it when the process ends.
    On a file system without locks, nothing is locked: a step may then be deleted while it is read.

    Raises FileNotFoundError if the step has no manifest, or is being removed.
    """

    def __init__(self, folder: Path):
        self._file = (folder / MANIFEST).open("rb")
        try:
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise FileNotFoundError(f"{folder} is being removed") from None
        except OSError:  # A file system without locks.
            return
        try:  # The step may have been removed between `open` and `flock`.
            now = os.stat(folder / MANIFEST)
        except FileNotFoundError:
            self._file.close()
            raise
        if not os.path.samestat(now, os.fstat(self._file.fileno())):
            self._file.close()
            raise FileNotFoundError(f"{folder} was replaced")

    def release(self) -> None:
        """Release the step. Further calls do nothing."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def remove_step(folder: Path) -> bool:
    """Delete a step unless a reader has locked it; return whether it was deleted.

    The folder is renamed first, so that an interrupted deletion leaves nothing that looks like a
    step.
    """
    with (folder / MANIFEST).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # A file system without locks.
            pass
        doomed = folder.rename(folder.with_name(f"{folder.name}.removing"))
    shutil.rmtree(doomed)
    return True


def _hash_files(folder: Path) -> dict[str, list[Any]]:
    """Return {relative path: [size in bytes, SHA-256]} of every file except the manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(_hash_file, paths))
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, digest]
        for path, digest in zip(paths, digests, strict=True)
    }


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest itself, which its field `digest` holds."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
