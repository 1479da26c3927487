"""Steps of a run in a store: copied there and back, and verified with their manifests.

A step is there when its manifest is there, which is written last and deleted first. While a step is
written or deleted, the object `unfinished.json` beside its files names them. So what a process that
was killed has left can be deleted, and nothing else is.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from configs.errors import StorageError
from configs.files import make_folder, new_path, write_durably
from storage.store import PIECE, Store, in_threads, is_safe
from storage.transfer import download
from training.hashes import FORMATS, Piece
from training.manifest import (
    CHECKPOINTS,
    MANIFEST,
    Damaged,
    StepLock,
    check_files,
    parse_manifest,
    read_manifest,
    unfinished,
    verify,
)

UNFINISHED = "unfinished.json"
"""The object that names the files of a step that is being written or deleted."""

Moved = Callable[[], None]


def nothing() -> None:
    """Do nothing: the default of `Moved`, which is called after each file."""


def steps_in(store: Store) -> dict[int, Store]:
    """Return the steps in a store that have a manifest, ascending, each as a store. It may be not
    whole.

    store: a workdir, its part `checkpoints`, or one step.
    """
    names = store.list()
    if MANIFEST in names:
        number = store.url.rpartition("/")[2]
        return {int(number) if number.isdecimal() else 0: store}
    inside = any(name.startswith(f"{CHECKPOINTS}/") for name in names)
    steps = store.below(CHECKPOINTS) if inside else store
    return {number: steps.below(str(number)) for number in _numbers(names, inside, MANIFEST)}


def unfinished_in(steps: Store) -> dict[int, Store]:
    """Return the steps that were being written or deleted, of the part `checkpoints` of a
    workdir."""
    names = steps.list()
    whole = _numbers(names, False, MANIFEST)
    return {
        number: steps.below(str(number))
        for number in _numbers(names, False, UNFINISHED)
        if number not in whole
    }


def read_remote_manifest(store: Store) -> dict[str, Any]:
    """Read the manifest of a step. Raises `Damaged` as `read_manifest` does, and if the names of
    its files lead out of the step."""
    return _read_manifest(store)[0]


def _read_manifest(store: Store) -> tuple[dict[str, Any], bytes]:
    """Return the manifest of a step, and its bytes."""
    try:
        content = store.read(MANIFEST)
    except FileNotFoundError:
        raise Damaged(unfinished(store.url)) from None
    manifest = parse_manifest(content, store.url)
    if wrong := [name for name in manifest["files"] if not is_safe(name)]:
        raise Damaged(f"{store.url}/{MANIFEST} names a file outside of the step: {wrong[0]!r}")
    return manifest, content


def verify_remote(
    store: Store, manifest: Mapping[str, Any] | None = None, moved: Moved = nothing
) -> dict[str, Any]:
    """Read all files of a step, and compare them with its manifest; return the manifest.

    manifest: that of a step which is not finished; None reads it from the store.

    Raises `Damaged` naming each file that is missing, truncated or altered.
    """
    manifest = dict(manifest or read_remote_manifest(store))
    hashing, files, there = FORMATS[manifest["format"]], manifest["files"], store.list()
    faults = {}
    for name, (size, *_) in files.items():
        if name not in there:
            faults[name] = "is missing"
        elif there[name].size != size:
            faults[name] = f"has {there[name].size:,} of {size:,} bytes"

    def fault(piece: Piece) -> str | None:
        hasher, end = hashing.new(), piece.start + piece.length
        try:
            for start in range(piece.start, end, PIECE):
                hasher.update(store.read(piece.name, start, min(end, start + PIECE)))
        except FileNotFoundError:
            return "is missing"
        moved()
        is_same = hasher.hexdigest() == files[piece.name][1 + piece.number]
        return None if is_same else f"is damaged (its {hashing.name} differs)"

    pieces = [
        piece
        for name in sorted(files.keys() - faults.keys())
        for piece in hashing.pieces(name, files[name][0])
    ]
    for piece, text in zip(pieces, in_threads(fault, pieces), strict=True):
        if text is not None:
            faults[piece.name] = text
    if faults:
        raise Damaged("; ".join(f"{store.url}/{name} {faults[name]}" for name in sorted(faults)))
    return manifest


def upload_step(
    source: Path,
    target: Store,
    *,
    may_finish: Callable[[], bool] = lambda: True,
    moved: Moved = nothing,
) -> int:
    """Copy the folder of a step to a store; return the bytes of its files.

    The manifest is written last, after the copied files were read again and compared with it. The
    run does not delete the step meanwhile.

    may_finish: asked right before the manifest is written.

    Raises `Damaged`, which names the damaged files of `source`, or those of `target` if it is the
    copy that differs; FileNotFoundError if the step is being removed; `StorageError` if the store
    fails, if something else is in its place, or if `may_finish` returns False.
    """
    with StepLock(source):
        manifest = read_manifest(source)
        clean(target)
        if found := target.list():
            raise StorageError(
                f"{target.url}/{min(found)} is there already, and no run wrote it: move it away"
            )
        _begin(target, manifest["files"])

        def upload(name: str) -> None:
            target.upload(name, source / name)
            moved()

        try:
            in_threads(upload, manifest["files"])
            verify_remote(target, manifest, moved)
        except (FileNotFoundError, Damaged):
            verify(source)
            raise
        if not may_finish():
            raise StorageError(f"{target.url}: another process is the writer now")
        content = (source / MANIFEST).read_bytes()
        target.write(MANIFEST, content)
        if target.read(MANIFEST) != content:
            raise StorageError(f"{target.url}/{MANIFEST} is not what was written")
        target.delete([UNFINISHED])
    return sum(size for size, *_ in manifest["files"].values())


def fetch_step(source: Store, target: Path, moved: Moved = nothing) -> int:
    """Copy a step from a store to the folder `target`, a new path; return the bytes of its files.

    The folder appears only once all files were compared with the manifest.

    Raises `Damaged`, naming the damaged objects; `StorageError` if the store fails, or if the disk
    has no room.
    """
    (manifest, content), there = _read_manifest(source), source.list()
    files = manifest["files"]
    if missing := sorted(files.keys() - there.keys()):
        raise Damaged("; ".join(f"{source.url}/{name} is missing" for name in missing))
    make_folder(target.parent)
    size = sum(there[name].size for name in files)
    require_room(target.parent, size, source.url)

    def fetch(name: str) -> None:
        download(source, name, there[name], temporary / name, lambda count: moved())

    with new_path(target) as temporary:
        temporary.mkdir()
        try:
            in_threads(fetch, files)
            check_files(temporary, manifest)
        except FileNotFoundError:
            raise Damaged(f"{source.url} was deleted while it was copied") from None
        except Damaged as damage:
            raise Damaged(str(damage).replace(str(temporary), source.url)) from None
        write_durably(temporary / MANIFEST, content)
    return size


def remove_remote_step(store: Store) -> None:
    """Delete a step: its manifest first, then the files that it names."""
    _begin(store, read_remote_manifest(store)["files"])
    store.delete([MANIFEST])
    clean(store)


def clean(store: Store) -> None:
    """Delete what was left of a step that was being written or deleted; nothing of others."""
    try:
        names = json.loads(store.read(UNFINISHED))
    except FileNotFoundError:
        return
    except ValueError:  # It was cut off while it was written, before any file.
        names = []
    store.delete(name for name in names if is_safe(name))
    store.delete([UNFINISHED])


def require_room(folder: Path, size: int, what: str) -> None:
    """Raise `StorageError` unless the disk of `folder` has room for `size` bytes of `what`."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(
            f"{what} has {size / 1e6:,.1f} MB, and {folder} has {free / 1e6:,.1f} MB free"
        )


def remove_leftovers(folder: Path) -> None:
    """Delete what `fetch_step` has left in a folder of steps when it was killed. Nothing else may
    write there meanwhile."""
    for path in folder.glob(".*.writing"):
        with contextlib.suppress(NotADirectoryError):
            shutil.rmtree(path)


def _begin(store: Store, names: Iterable[str]) -> None:
    store.write(UNFINISHED, json.dumps(sorted(names)).encode())


def _numbers(names: Iterable[str], inside: bool, last: str) -> list[int]:
    """Return the steps of which an object `last` is among `names`, ascending. inside: whether the
    names begin with `CHECKPOINTS`."""
    begin = f"{CHECKPOINTS}/" if inside else ""
    parts = (name.removeprefix(begin).split("/") for name in names if name.startswith(begin))
    return sorted(int(part[0]) for part in parts if part[1:] == [last] and part[0].isdecimal())
