"""Local copies of the user's data in object stores, which every reader then reads like any file.

A copy is in the cache, and is made once: at the next start, only objects that have changed are
copied again. What a killed process has copied is gone on with.
"""

import contextlib
import glob
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from configs.errors import StorageError, UsageError
from configs.files import sync_folders
from configs.reading.patterns import is_pattern, matching_names, split_pattern
from configs.remote import ANY, check_place, is_remote
from configs.schema.pairs import ParallelText
from configs.schema.sound import Manifest
from configs.schema.source import PreparedSet, UserFiles
from configs.schema.tokenizers import TokenizerFile
from data.cache import cache_dir, digest, locked
from data.progress import Progress, delayed, silent
from storage.store import Entry, Store, in_threads, is_safe, open_store
from storage.transfer import PART, download

_FILES, _INDEX = "files", "files.jsonl"
_MEGABYTE = 10**6


def local_files(settings: Any, progress: Progress = silent) -> dict[str, Any]:
    """Copy what a source has in object stores: `data.path`, and of `data.data_dir` the set
    `data.name`. Return the fields that name the copies instead: {} if all of it is local.

    settings: `config.data`, or those of a part of a mixture.

    Raises `UsageError` if there is nothing at a URL, if the disk has no room for it, or if it
    changes while it is copied; `StorageError` if the store can't be read.
    """
    if isinstance(settings, UserFiles) and settings.path is not None and is_remote(settings.path):
        copied = _local_path(settings, settings.path, progress)
        return {"path": str(copied)}
    if isinstance(settings, PreparedSet) and settings.name is not None:
        folder = settings.data_dir or os.environ.get("TFDS_DATA_DIR")
        check_place("data.data_dir=", folder, ANY, "download it first")
        if folder is not None and is_remote(folder):
            name = settings.name.partition(":")[0]
            root = folder.rstrip("/")
            copy = local_copy(f"{root}/{name}", settings, progress, root=root)
            return {"data_dir": str(copy.parents[name.count("/")])}
    return {}


def local_tokenizer(settings: Any, progress: Progress = silent) -> dict[str, Any]:
    """Copy the file `data.tokenizer.path`, if it is in an object store. Return the fields that
    name the copy instead. Raises as `local_files` does."""
    tokenizer = getattr(settings, "tokenizer", None)
    if not isinstance(tokenizer, TokenizerFile) or tokenizer.path is None:
        return {}
    if not is_remote(tokenizer.path):
        return {}
    copy = local_copy(tokenizer.path, settings, progress)
    return {"tokenizer": tokenizer.model_copy(update={"path": str(copy)})}


def local_copy(
    url: str,
    settings: Any,
    progress: Progress = silent,
    *,
    begins: bool = False,
    root: str | None = None,
) -> Path:
    """Return the path of a verified copy of an object, or of all objects below a URL; of a
    pattern, the pattern of the copies.

    begins: whether the URL may also be the beginning of names, NAME of NAME.en and NAME.de.
    root: the URL above it from which on the path is kept; by default the one above the last name.

    Raises as `local_files` does.
    """
    wanted = _Wanted(url.rstrip("/"), begins, root)
    there = wanted.list()
    if not there:
        what = "no object matches" if wanted.pattern else "there is no such object or folder"
        raise UsageError(f"{url}: {what}")
    if wrong := [name for name in there if not is_safe(name)]:
        raise UsageError(f"{wanted.store.url}: {wrong[0]!r} can't be a path: rename the object")
    folder = cache_dir(settings) / "copies" / digest([url, begins, root])[:24]
    with locked(folder):
        copy_objects(wanted.store, there, folder, progress)
    again = wanted.list()
    if changed := sorted(name for name in there if again.get(name) != there[name]):
        raise UsageError(
            f"{wanted.store.url}/{changed[0]} changed while it was copied: run the same command "
            "again once nothing is written there"
        )
    files = folder / _FILES
    return Path(glob.escape(str(files))) / wanted.name if wanted.pattern else files / wanted.name


class _Wanted:
    """The objects at a URL. store: the place above them. name: the rest of the URL.

    pattern: whether the name is one.
    """

    def __init__(self, url: str, begins: bool, root: str | None):
        self.pattern, self._begins = is_pattern(url), begins
        above, _, self.name = url.rpartition("/")
        if root is not None:
            above, self.name = root, url.removeprefix(f"{root}/")
        elif self.pattern:
            above, self.name = split_pattern(url)
        elif above.endswith("/"):  # A bucket alone.
            above, self.name = url, ""
        self.store = open_store(above)

    def list(self) -> Mapping[str, Entry]:
        if self.pattern:
            there = self.store.list()
            return {name: there[name] for name in matching_names(self.name, there)}
        there = self.store.list(self.name)
        if there or not self._begins:
            return there
        begin = f"{self.name}."
        return {name: one for name, one in self.store.list().items() if name.startswith(begin)}


def copy_objects(
    store: Store, there: Mapping[str, Entry], folder: Path, progress: Progress = silent
) -> None:
    """Make the files below `folder` the objects `there` of a store, and remove all others.

    Objects that are copied already, in the same version, are not copied again, unless their file
    has changed. Nothing else may write to the folder meanwhile.

    Raises `UsageError` if the disk has no room for them, `StorageError` if the store fails.
    """
    files, index = folder / _FILES, folder / _INDEX
    files.mkdir(parents=True, exist_ok=True)
    known = _read_index(index)
    missing = {
        name: entry
        for name, entry in there.items()
        if not _is_there(files / name, entry, known.get(name))
    }
    for path in files.rglob("*"):
        name = path.relative_to(files).as_posix()
        if path.is_file() and name not in there and not path.name.endswith(PART):
            path.unlink()
    size = sum(entry.size for entry in missing.values())
    if (free := shutil.disk_usage(folder).free) < size:
        raise UsageError(
            f"{store.url}: {size / 1e6:,.1f} MB are to be copied, and {folder} has "
            f"{free / 1e6:,.1f} MB free: give another folder for copies as data.cache_dir, or in "
            "the environment as TRIFORM_CACHE"
        )
    counting, total, done = threading.Lock(), max(1, -(-size // _MEGABYTE)), 0
    stopped = threading.Event()
    report, stage = delayed(progress), f"copying {store.url}"

    def advance(count: int) -> None:
        nonlocal done
        if stopped.is_set():
            raise StorageError(f"{store.url}: the copy was stopped")
        with counting:
            done += count
            report(stage, min(done // _MEGABYTE, total - 1), total, "MB")

    def fetch(name: str) -> None:
        path = files / name
        try:
            download(store, name, missing[name], path, advance)
        except FileNotFoundError:
            raise UsageError(
                f"{store.url}/{name} was deleted while it was copied: run the same command again"
            ) from None
        line = {"name": name, "version": missing[name].version, "hash": _hash(path)}
        with counting, index.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"stamp": _stamp(path)}) + "\n")

    in_threads(fetch, missing, stopped.set)
    for path in files.rglob(f"*{PART}"):
        path.unlink()
    if missing:
        sync_folders(files)
        report(stage, total, total, "MB")


def _local_path(settings: Any, url: str, progress: Progress) -> Path:
    """Return the copy of `data.path`, a URL. Raises as `local_files` does."""
    copy = local_copy(url, settings, progress, begins=isinstance(settings, ParallelText))
    if isinstance(settings, Manifest) and copy.is_file():
        raise UsageError(
            f"data.path={url} lists recordings that are beside it: give its folder, "
            f"{url.rpartition('/')[0]}"
        )
    return copy


def _read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of each file that was copied; nothing of one that was cut off."""
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            one = json.loads(line)
            known[one["name"]] = one
    return known


def _is_there(path: Path, entry: Entry, about: Mapping[str, Any] | None) -> bool:
    """Return whether a file is the copy of an object in this version, by its hash unless its size
    and times are those that it had when it was hashed.

    about: its line of the index; None if it has none.
    """
    if about is None or about["version"] != entry.version or not path.is_file():
        return False
    stamp = _stamp(path)
    return stamp[0] == entry.size and (stamp == about["stamp"] or _hash(path) == about["hash"])


def _hash(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]
