"""The mirror of a workdir: a verified copy in a store, from which a run goes on elsewhere.

A run always writes to a folder of this machine. After each save, a thread makes the mirror like the
folder: the small files, the steps that the mirror lacks, newest first, and last the deletion of
those that the run has deleted. All of this can be repeated at any time, so that whatever was cut
off is done by the next one. The lease in the mirror (`storage.lease`) keeps other writers away.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Self

from configs.errors import StorageError, UsageError
from configs.files import write_durably
from configs.reading.saved import differences, refuse_differences
from configs.reading.validation import build_config
from configs.schema.config import Config
from parallel.distributed import is_main_process
from parallel.exchange import agree, first
from storage.lease import RENEWALS, Lease
from storage.store import Entry, Store, is_safe, open_store
from training.checkpoints import NotSaved, finished_steps, set_aside_unusable
from training.loss_spikes import RECORD as LOSS_SPIKES
from training.manifest import CHECKPOINTS, MANIFEST, Damaged
from training.remote_steps import (
    clean,
    fetch_step,
    nothing,
    read_remote_manifest,
    remove_leftovers,
    remove_remote_step,
    steps_in,
    unfinished_in,
    upload_step,
)
from training.workdir import WorkdirLock

FILES = (
    "config.json",
    "tokenizer.json",
    "metrics.jsonl",
    "events.jsonl",
    LOSS_SPIKES,
    "report.html",
)
FOLDERS = ("samples", "tensorboard")
"""What a mirror has of a workdir, beside the checkpoints."""

Notify = Callable[[str], None]


class Mirror:
    """Keeps a copy of a workdir in a store: `with Mirror(url, workdir, notify) as mirror: ...`.

    Entering takes the lease; leaving copies what is left to copy, and releases it. `begin` starts
    the copying, `request` asks for the next copy, `check` tells what happened to the last ones. A
    copy that fails is told, and tried again with the next one; it never stops the run.

    url: of the mirror, or a folder.
    notify: called with messages before `begin` and after the run.
    is_workdir: whether the user knows the mirror as the workdir, and its folder is in the cache.
    is_complete: whether everything was copied, once the context is left.
    """

    def __init__(self, url: str, workdir: Path, notify: Notify, *, is_workdir: bool = False):
        self._is_workdir = is_workdir
        self.url, self._workdir, self._notify = url, workdir, notify
        self._store = open_store(url)
        self._lease, self._lease_lock = Lease(self._store), threading.Lock()
        self._taken_by: str | None = None
        self._messages = SimpleQueue[str]()
        self._failures, self.is_complete = 0, False
        self._copied: dict[str, Entry] = {}  # Small files, as they were copied last.
        self._damaged = set[int]()  # Steps of the mirror that are to be replaced.
        self._same: dict[int, int] = {}  # Hashes of the manifests of steps that the mirror has.
        self._moves = 0
        self._on_mirrored: Callable[[int], None] = lambda step: None
        self._changed = threading.Condition()
        self._asked = self._done = 0  # Requests, and how many of them are carried out.
        self._left = threading.Event()
        self._renewing = threading.Thread(target=self._renew, name="mirror lease", daemon=True)
        self._copying = threading.Thread(target=self._copy, name="mirror copy", daemon=True)

    def acquire(self, is_stopped: Callable[[], bool]) -> bool:
        """Take the lease; return False if `is_stopped` returned True meanwhile. Raises
        `UsageError` if another run writes to the mirror."""
        is_mine = self._lease.acquire(self._notify, is_stopped)
        if is_mine:
            self._renewing.start()
        return is_mine

    def fetch(self, config: Config) -> None:
        """Copy what the mirror has, and the workdir lacks, to the workdir: everything, or if the
        workdir has checkpoints, those that are newer.

        Raises `UsageError`, before anything is written, if the mirror is of a run with another
        configuration, and if none of its checkpoints is whole though the workdir has none.
        """
        folder = self._workdir / CHECKPOINTS
        newest = max(finished_steps(folder), default=-1)
        steps = steps_in(self._store.below(CHECKPOINTS))
        wanted, manifests = {}, {}
        for number, step in steps.items():
            try:
                manifests[number] = read_remote_manifest(step)
            except Damaged as damage:
                self._notify(f"checkpoint {number} is not used: {damage}")
                continue
            if number > newest:
                wanted[number] = step
        if manifests:
            last = max(manifests)
            where = f"the manifest of step {last} of {self.url}"
            stored = build_config(manifests[last]["config"], {}, where)
            refuse_differences(self.url, differences(stored, config))
        if self._is_workdir and newest >= 0 and not self._store.list("config.json"):
            raise UsageError(
                f"{self.url} is empty, but {self._workdir} has checkpoint {newest} of it: delete "
                "this folder to begin anew, or give another --workdir"
            )
        if not wanted:
            if steps and newest < 0:
                raise self._nothing_whole()
            return
        with WorkdirLock(self._workdir, self._notify):
            remove_leftovers(folder)
            set_aside_unusable(folder, newest, self._notify)
            self._fetch_files()
            for number, step in wanted.items():
                try:
                    fetch_step(step, folder / str(number))
                except Damaged as damage:
                    self._damaged.add(number)
                    self._notify(f"checkpoint {number} is not used: {damage}")
        fetched = [step for step in finished_steps(folder) if step > newest]
        if fetched:
            listed = ", ".join(map(str, fetched))
            plural = "s" if len(fetched) > 1 else ""
            self._notify(f"checkpoint{plural} {listed} came from {self.url}, verified")
        elif newest < 0:
            raise self._nothing_whole()

    def begin(self, on_mirrored: Callable[[int], None]) -> None:
        """Start copying. on_mirrored: called, in another thread, with each step that the mirror has
        now."""
        self._on_mirrored = on_mirrored
        self._copying.start()
        self.request()

    def request(self) -> None:
        """Ask for a copy of what the workdir has now. Any thread may call it."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def check(self, warn: Notify) -> None:
        """Call `warn` with messages about copies that failed. Raises `NotSaved` if another process
        has taken over the mirror, so that two would train the same run."""
        self._tell(warn)
        if self._taken_by is not None:
            raise NotSaved(
                f"{self.url} was taken over by {self._taken_by}, as this run had not renewed its "
                "lock: this run ends"
            )

    def wait(self, warn: Notify, on_move: Callable[[], None] = nothing) -> None:
        """Wait until the last requested copy is done, and tell what happened. on_move: called
        again and again while files are copied."""
        moves = self._moves
        with self._changed:
            while self._done < self._asked and self._copying.is_alive():
                self._changed.wait(1)
                if moves != self._moves:
                    moves = self._moves
                    on_move()
        self._tell(warn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._copying.is_alive():
            self.request()
            self.wait(self._notify)
            self.is_complete = self._failures == 0 and self._taken_by is None
        self._left.set()
        self.request()
        for thread in (self._copying, self._renewing):
            if thread.is_alive():
                thread.join()
        if self._taken_by is None:
            self._lease.release()

    def _renew(self) -> None:
        """Renew the lease until the context is left: the work of a thread."""
        while not self._left.wait(self._lease.seconds / RENEWALS):
            try:
                self._is_writer()
            except StorageError:  # Nobody can take it over either, or `check` will tell.
                continue

    def _is_writer(self) -> bool:
        """Renew the lease; return False if another process has taken it over."""
        with self._lease_lock:
            if self._taken_by is None and not self._lease.renew():
                self._taken_by = self._lease.owner()
            return self._taken_by is None

    def _copy(self) -> None:
        """Copy whenever it is asked for, until the context is left: the work of a thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done)
                asked = self._asked
            if self._left.is_set():
                return
            try:
                if self._is_writer():
                    self._copy_once()
                    self._failures = 0
            except (StorageError, Damaged, OSError) as error:
                self._failures += 1
                self._messages.put(
                    f"the mirror {self.url} is not up to date: {error}; failure {self._failures} "
                    "in a row; the next save tries it again"
                )
            with self._changed:
                self._done = asked
                self._changed.notify_all()

    def _copy_once(self) -> None:
        """Make the mirror like the workdir."""
        self._copy_files()
        folder = self._workdir / CHECKPOINTS
        steps = self._store.below(CHECKPOINTS)
        mine, theirs = finished_steps(folder), steps_in(steps)
        for number in reversed(mine):
            source, target = folder / str(number), steps.below(str(number))
            try:
                manifest = (source / MANIFEST).read_bytes()
                if number in theirs:
                    if self._is_same(number, target, manifest):
                        continue
                    remove_remote_step(target)
                upload_step(source, target, may_finish=self._is_writer, moved=self._moved)
            except FileNotFoundError:  # The run has just deleted it.
                continue
            self._damaged.discard(number)
            self._same[number] = hash(manifest)
            self._on_mirrored(number)
        for number, step in theirs.items():
            if number not in mine and number < max(mine, default=0):
                with suppress(Damaged):  # Its manifest does not say which files are its own.
                    remove_remote_step(step)
        for number, step in unfinished_in(steps).items():
            if number not in mine:
                clean(step)

    def _is_same(self, number: int, target: Store, manifest: bytes) -> bool:
        """Return whether the mirror has the step with this manifest. A run that has gone back to an
        earlier step makes later ones anew."""
        if number in self._damaged:
            return False
        if self._same.get(number) == hash(manifest):
            return True
        is_same = target.read(MANIFEST) == manifest
        if is_same:
            self._same[number] = hash(manifest)
        return is_same

    def _copy_files(self) -> None:
        """Copy the small files that have changed."""
        paths = [self._workdir / name for name in FILES]
        paths += [path for name in FOLDERS for path in sorted((self._workdir / name).rglob("*"))]
        for path in paths:
            if not path.is_file() or path.name.endswith(".writing"):
                continue
            name, found = path.relative_to(self._workdir).as_posix(), path.stat()
            entry = Entry(found.st_size, f"{found.st_mtime_ns} {found.st_ino}")
            if self._copied.get(name) == entry:
                continue
            content = path.read_bytes()
            self._store.write(name, content)
            if self._store.read(name) != content:
                raise StorageError(f"{self.url}/{name} is not what was written")
            self._copied[name] = entry
            self._moved()

    def _moved(self) -> None:
        self._moves += 1

    def _tell(self, warn: Notify) -> None:
        """Call `warn` with the messages that have come."""
        with suppress(Empty):
            while True:
                warn(self._messages.get_nowait())

    def _fetch_files(self) -> None:
        """Copy the small files of the mirror to the workdir."""
        for name in self._store.list():
            if (name in FILES or name.partition("/")[0] in FOLDERS) and is_safe(name):
                path = self._workdir / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_durably(path, self._store.read(name))

    def _nothing_whole(self) -> UsageError:
        return UsageError(
            f"none of the checkpoints in {self.url}/{CHECKPOINTS} is whole; to begin anew, give "
            "another place"
        )


def open_mirror(
    config: Config,
    workdir: Path,
    notify: Notify,
    is_stopped: Callable[[], bool],
    *,
    is_workdir: bool = False,
) -> Mirror | None:
    """Return the mirror of a run, with its lease, after fetching what it has and the workdir
    lacks. None if the run has none, and if `is_stopped` returned True meanwhile.

    is_workdir: as in `Mirror`.

    All processes of the run must call it; only the first one gets the mirror.

    Raises in all processes `UsageError` if another run writes to the mirror, or if it is of another
    run; `StorageError` if it can't be read.
    """
    url = config.checkpoint.mirror
    if url is None:
        return None
    mirror: Mirror | None = None
    problem: list[str] | None = None
    if is_main_process():
        try:
            mirror = Mirror(url, workdir, notify, is_workdir=is_workdir)
            if mirror.acquire(is_stopped):
                mirror.fetch(config)
            else:
                mirror = None
        except (UsageError, StorageError) as error:
            problem = [type(error).__name__, str(error)]
            if mirror is not None:
                mirror.__exit__()
    problem = agree("mirror", problem, first)
    if problem is not None:
        kind, text = problem
        raise (UsageError if kind == "UsageError" else StorageError)(text)
    return mirror
