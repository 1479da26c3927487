"""The lock of a run's folder, which allows one writer at a time."""

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from configs.errors import UsageError
from configs.files import make_folder


def _to_standard_error(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class WorkdirLock:
    """Creates the workdir if it is missing, and locks it: `with WorkdirLock(workdir): ...`.

    It is an advisory lock (`flock`) on the file `lock`, which names its owner: process, host, start
    and command. The kernel releases it when the owner ends, even if it is killed. If the file still
    names a killed owner, the lock is taken over and `notify` gets a message. A clean exit empties
    the file but never removes it, because another process may be waiting for this very file.

    Entering raises `UsageError` if another process holds the lock, or if the path can't be a
    workdir: a file, a symbolic link (one folder with two names would look like two runs), or a
    place where this user can't write.
    """

    def __init__(self, workdir: Path, notify: Callable[[str], None] = _to_standard_error):
        self._workdir = workdir
        self._notify = notify
        self._descriptor = -1  # No open file.

    def __enter__(self) -> Self:
        self._descriptor = self._open()
        try:
            self._acquire()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        os.ftruncate(self._descriptor, 0)
        self._close()

    def _open(self) -> int:
        workdir = self._workdir
        if workdir.is_symlink():
            raise UsageError(
                f"--workdir={workdir} is a symbolic link: give the folder itself, "
                f"{os.path.realpath(workdir)}"
            )
        try:
            make_folder(workdir)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            return os.open(workdir / "lock", flags, 0o666)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"--workdir={workdir}: {error.filename} is not a folder") from None
        except OSError as error:
            raise UsageError(
                f"--workdir={workdir} can't be written: {error.strerror} ({error.filename})"
            ) from None

    def _acquire(self) -> None:
        try:
            self._lock()
        except BlockingIOError:
            raise UsageError(
                f"{self._workdir} is in use by {self._living_owner()}: "
                "stop that run, or give another --workdir"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{self._workdir} can't be locked ({error.strerror}): give a --workdir on a file "
                "system with locks"
            ) from None
        left_behind = self._read()
        if left_behind:
            self._notify(
                f"{self._workdir} was left locked by {_describe(left_behind)}, which ended "
                "without letting go; it is taken over"
            )
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": shlex.join(sys.orig_argv),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode(), 0)

    def _lock(self) -> None:
        for _ in range(10):
            with suppress(BlockingIOError):  # `is_in_use` may hold the lock for a moment.
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.01)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _living_owner(self) -> str:
        for _ in range(20):  # The owner may hold the lock without having written its name yet.
            content = self._read()
            if content:
                return _describe(content)
            time.sleep(0.01)
        return "another process"

    def _read(self) -> bytes:
        return os.pread(self._descriptor, 1 << 20, 0)

    def _close(self) -> None:
        os.close(self._descriptor)  # Frees the lock.
        self._descriptor = -1


def is_in_use(workdir: Path) -> bool:
    """Return whether a process holds the lock of `workdir`."""
    try:
        with (workdir / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # No lock file, or a file system without locks.
        return False
    return False


def _describe(content: bytes) -> str:
    """Return a text that describes the process that wrote the lock file."""
    try:
        owner: dict[str, Any] = json.loads(content)
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, TypeError, KeyError):
        return "a process that left no readable name"
