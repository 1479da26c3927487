"""The manifest of a checkpoint step: what it holds, and proof that it still does.

Orbax restores flipped bits in silence and cannot tell a whole step from one whose writing was cut
off. `manifest.json` lies in the step's folder, is written last and atomically, after all else has
reached the disk, and names every
file with its size and SHA-256, and every array with shape, dtype and axes. A step is there when
its manifest is there and agrees.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.files import sync_file, sync_folder, sync_tree, write_durably

NAME = "manifest.json"
FORMAT = 1


class Damaged(Exception):
    """A step that must not be used; the text names the files."""


def unfinished(folder: Path) -> str:
    """Say of a step that its writing was cut off before its manifest."""
    return f"{folder} has no {NAME}: its writing was never finished"


def write_manifest(folder: Path, contents: Mapping[str, Any], *, also: Sequence[Path] = ()) -> None:
    """Hash every file under `folder` and write the manifest: `contents` and the hashes.

    Before that every file and folder of the step, the folders above it up to the workdir, and the
    files `also` (where they are there) are brought to the disk: a power cut leaves no manifest of
    what is not.
    """
    sync_tree(folder)
    for above in (folder.parent, folder.parent.parent):
        sync_folder(above)
    for path in also:
        if path.exists():
            sync_file(path)
    manifest = {"format": FORMAT, **contents, "files": _hash_files(folder)}
    manifest["digest"] = _digest(manifest)
    write_durably(folder / NAME, json.dumps(manifest, indent=1))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a step, checked against its own digest.

    Raises `Damaged` if it is missing, cut short or altered.
    """
    path = folder / NAME
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
    if digest != _digest(manifest):
        raise Damaged(f"{path} is damaged (its digest differs)")
    if manifest["format"] != FORMAT:
        raise Damaged(f"{path} has format {manifest['format']}; this version reads {FORMAT}")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Reads the manifest and compares every file with it. Returns the manifest.

    Raises `Damaged` naming each file that is missing, cut short, altered or added.
    """
    manifest = read_manifest(folder)
    expected, found = manifest["files"], _hash_files(folder)
    faults = [f"{folder / name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{folder / name} is not in the manifest" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        (size, digest), (size_now, digest_now) = expected[name], found[name]
        if size_now != size:
            faults.append(f"{folder / name} has {size_now:,} of {size:,} bytes")
        elif digest_now != digest:
            faults.append(f"{folder / name} is damaged (its SHA-256 differs)")
    if faults:
        raise Damaged("; ".join(sorted(faults)))
    return manifest


def _hash_files(folder: Path) -> dict[str, list[Any]]:
    """{relative path: [bytes, SHA-256]} of every file but the manifest."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(_hash_file, paths))
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, digest]
        for path, digest in zip(paths, digests, strict=True)
    }


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
