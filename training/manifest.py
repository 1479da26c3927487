"""One step of a checkpoint folder: its manifest, the check of its files, and its lock.

`manifest.json` lists every file with its size and hashes, and every array with shape, dtype and
axes. It is written last and atomically, after everything else has reached the disk: a step counts
as saved if it has a manifest and its files match it. (Orbax restores flipped bits silently, and
can't tell a complete step from an interrupted one.)
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from configs.files import sync_file, sync_files, sync_folder, sync_folders, write_durably
from training import hashes
from training.hashes import FORMATS, NEWEST_FORMAT, Hashes

MANIFEST = "manifest.json"

CHECKPOINTS = "checkpoints"
"""Folder of a workdir with a folder for each step."""

_TRIES = 100

ITEMS = {
    "model": ("params", "statistics", "ema", "ema_statistics"),
    "training": ("step", "skipped", "optimizer"),
}
"""The fields of the state that each item of a checkpoint holds. An item is a folder of a step."""


class Damaged(Exception):
    """Raised for a step that must not be used; the message names the damaged files."""


def unfinished(folder: Path | str) -> str:
    """Return the message for a step without a manifest: writing it was interrupted."""
    return f"{folder} has no {MANIFEST}: its writing was never finished"


def hash_written_files(folder: Path, index: int, count: int) -> dict[str, Any]:
    """Sync the files of a step that process `index` of `count` wrote to the disk, and hash them.

    Each process hashes what it wrote, which is still in its memory.
    """
    sizes = {
        name: size
        for name, size in hashes.list_sizes(folder, besides=MANIFEST).items()
        if hashes.written_by(name, count) == index
    }
    sync_files(folder / name for name in sizes)
    return hashes.hash_files(folder, sizes)


def write_manifest(
    folder: Path,
    contents: Mapping[str, Any],
    written: Sequence[Hashes],
    *,
    also_sync: Sequence[Path] = (),
) -> None:
    """Write the manifest of a step: `contents`, and the hashes of its files.

    written: what `hash_written_files` returned in each process.

    The folders of the step, the two folders above it (up to the workdir), and the existing files of
    `also_sync` are synced first. After a power cut, no manifest then names a file that is not on
    the disk.

    Raises OSError if the files that are seen here are not those that were written.
    """
    files = {name: entry for part in written for name, entry in part.items()}
    sizes = hashes.list_sizes(folder, besides=MANIFEST)
    if sizes != {name: size for name, (size, *_) in files.items()}:
        unlike = sorted(
            name
            for name in sizes.keys() | files.keys()
            if name not in files or sizes.get(name) != files[name][0]
        )
        raise OSError(
            f"{folder / unlike[0]} is not seen by all processes of the run as it was written: "
            "are they on one file system?"
        )
    sync_folders(folder)
    for above in (folder.parent, folder.parent.parent):
        sync_folder(above)
    for path in also_sync:
        if path.exists():
            sync_file(path)
    manifest = {"format": NEWEST_FORMAT, **contents, "files": dict(sorted(files.items()))}
    manifest["digest"] = digest_of(manifest)
    write_durably(folder / MANIFEST, _text_of(manifest))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a step and check it against its own digest.

    Raises `Damaged` if it is missing, can't be read, or is truncated, altered, of another format
    version, or of another step than the folder's name says.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise Damaged(unfinished(folder)) from None
    except OSError as error:
        raise Damaged(f"{folder / MANIFEST} can't be read ({error.strerror})") from None
    return parse_manifest(content, str(folder))


def parse_manifest(content: bytes, folder: str) -> dict[str, Any]:
    """Return the manifest with the bytes `content`. folder: the path or the URL of the step.

    Raises `Damaged` as `read_manifest` does.
    """
    path, name = f"{folder}/{MANIFEST}", folder.rpartition("/")[2]
    try:
        text = content.decode("utf-8")
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
    if name.isdecimal() and manifest["step"] != int(name):
        raise Damaged(f"{folder} is a copy of step {manifest['step']}, by another number")
    if manifest["format"] not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise Damaged(f"{path} has format {manifest['format']}; this version reads {known}")
    # A digit may differ without changing the value of a number, as the last one of 17.
    if manifest["format"] == NEWEST_FORMAT and _text_of(manifest) != text:
        raise Damaged(f"{path} is damaged (not as it was written)")
    return manifest


def step_folders(folder: Path) -> list[int]:
    """Return the numbers of the steps in `folder`, ascending, whether they are whole or not; [] if
    there is no such folder. Files, and folders with names such as 007, are no steps."""
    if not folder.is_dir():
        return []
    numbered = (path for path in folder.iterdir() if re.fullmatch(r"0|[1-9][0-9]*", path.name))
    return sorted(int(path.name) for path in numbered if path.is_dir())


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
    if faults := find_faults(folder, manifest):
        raise Damaged("; ".join(sorted(faults.values())))


def find_faults(
    folder: Path, manifest: Mapping[str, Any], index: int = 0, count: int = 1
) -> dict[str, str]:
    """Compare files of a step with its manifest: those that process `index` of `count` reads.
    Return what is wrong with each file that is damaged, by name.

    The first process also compares the names and the sizes of all files.
    """
    hashing, files = FORMATS[manifest["format"]], manifest["files"]
    faults = {}
    if index == 0:
        sizes = hashes.list_sizes(folder, besides=MANIFEST)
        for name in files.keys() - sizes.keys():
            faults[name] = f"{folder / name} is missing"
        for name in sizes.keys() - files.keys():
            faults[name] = f"{folder / name} is not in the manifest"
        for name in files.keys() & sizes.keys():
            if sizes[name] != (size := files[name][0]):
                faults[name] = f"{folder / name} has {sizes[name]:,} of {size:,} bytes"
    pieces = [piece for name in sorted(files) for piece in hashing.pieces(name, files[name][0])]
    share = (piece for piece in hashes.share_of(pieces, index, count) if piece.name not in faults)
    return hashes.find_faults(folder, files, hashing, share) | faults


class StepLock:
    """Protects a step from `remove_step` while it is read: `with StepLock(folder): ...`.

    It is an advisory lock (`flock`) on the manifest; the kernel releases it when the process ends.
    On a file system without locks, nothing is locked: a step may then be deleted while it is read.
    Nor is a step whose manifest can't be opened; `verify` says why.

    Raises FileNotFoundError if the step has no manifest, or is being removed.
    """

    def __init__(self, folder: Path):
        self._file: BinaryIO | None = None
        try:
            self._file = (folder / MANIFEST).open("rb")
        except FileNotFoundError:
            raise
        except OSError:
            return
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
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


GOING, UNFINISHED, LOCKED = range(3)
"""States of a step that is to be locked, the worst first."""


def try_lock(path: Path) -> tuple[int, StepLock | None]:
    """Lock a step, and return its state and the lock.

    The state is `LOCKED`; `GOING` if a run has removed it or is removing it, so that there may be
    newer ones; `UNFINISHED` if it has no manifest.
    """
    try:
        return LOCKED, StepLock(path)
    except FileNotFoundError:
        is_going = not path.exists() or (path / MANIFEST).exists()
        return GOING if is_going else UNFINISHED, None


def why_kept(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Return why a step may not be deleted: there is something in it, or in its place, that the run
    did not write. None if it may be."""
    if folder.is_symlink():
        return "its folder is a link"
    foreign = hashes.list_sizes(folder, besides=MANIFEST).keys() - manifest["files"].keys()
    return f"it holds {min(foreign)}, which the run did not write" if foreign else None


def remove_unfinished(folder: Path) -> None:
    """Delete what a failed save has left: the folder of a step without a manifest, and Orbax's
    temporary folders for it.

    Orbax may go on for a moment with other files of a save that has failed, so that this is tried
    for some seconds.
    """
    clean = 0  # How often in a row nothing was left.
    for _ in range(_TRIES):
        left = [*folder.parent.glob(f"{folder.name}.orbax-checkpoint-tmp*")]
        if folder.is_dir() and not (folder / MANIFEST).exists():
            left.append(folder)
        clean = 0 if left else clean + 1
        if clean == 2:
            return
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05)


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


def _text_of(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1)


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Return the hash of a manifest itself, which its field `digest` holds."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
