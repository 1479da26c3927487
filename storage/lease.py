"""The lock of a place in a store, which allows one writer at a time on any machine.

A store has no locks that end with a process. So the writer holds a lease, which it renews: it
creates objects `lease/1`, `lease/2`, ... that nobody can create twice. Whoever created the newest
one is the writer. If no newer one comes for `SECONDS`, the writer is gone, and another one may
create the next.
"""

import json
import os
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from configs.errors import StorageError, UsageError
from storage.store import Store

SECONDS = 60.0
"""A lease that was not renewed for so long may be taken over. The clock is that of the one who
waits, so that clocks of machines need not agree."""

RENEWALS = 4
"""How often a lease is renewed in `SECONDS`."""

_POLL_SECONDS = 1.0
_FOLDER = "lease"


class Lease:
    """The right to write to a store. Any thread may call `renew`, one at a time.

    seconds: as in `SECONDS`.
    """

    def __init__(self, store: Store, *, seconds: float = SECONDS):
        self._store, self.seconds = store, seconds
        self._number = 0
        self._me: dict[str, Any] = {"token": secrets.token_hex(8), **_this_process()}

    def acquire(
        self, notify: Callable[[str], None], is_stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Become the writer. Return False if `is_stopped` returned True meanwhile.

        If another process is the writer, by what the store says, this takes up to `seconds`: in
        this time it renews its lease, or is gone. If it runs on this machine, the system knows.

        notify: called with a message before waiting, and if a lease is taken over.

        Raises `UsageError` if another process is the writer, `StorageError` if the store fails.
        """
        number, owner = self._newest()
        waits_until = time.monotonic() + self.seconds
        is_told = False
        while owner is not None and _is_alive(owner) is not False:
            if _is_alive(owner):
                raise self._in_use(owner)
            if time.monotonic() >= waits_until:
                break
            if not is_told:
                notify(
                    f"{self._store.url} is locked by {_describe(owner)}: it is taken over if the "
                    f"lock is not renewed within {self.seconds:.0f} s"
                )
                is_told = True
            time.sleep(min(_POLL_SECONDS, self.seconds / 10))
            if is_stopped():
                return False
            newer, owner_now = self._newest()
            if newer != number and owner_now is not None:
                raise self._in_use(owner_now)
            number, owner = newer, owner_now
        if owner is not None:
            notify(
                f"{self._store.url} was left locked by {_describe(owner)}, which ended without "
                "letting go; it is taken over"
            )
        self._number = number
        is_mine = self.renew()
        newer, owner = self._newest()
        if not is_mine or newer != self._number:
            if is_mine:  # What was seen as the newest is long gone.
                self._delete([self._number])
            raise self._in_use(owner or {})
        return True

    def renew(self) -> bool:
        """Go on being the writer. Return False if another process has become it. Raises
        `StorageError`."""
        following = self._number + 1
        content = json.dumps(self._me).encode()
        is_mine = self._store.create(_name(following), content)
        if not is_mine:  # A request that was repeated may have met its own object.
            is_mine = (self._read(following) or {}).get("token") == self._me["token"]
        if is_mine:
            before, self._number = self._number, following
            self._delete(range(max(1, before - 1), before + 1))
        return is_mine

    def release(self) -> None:
        """Let another process become the writer at once."""
        with suppress(StorageError):
            _, owner = self._newest()
            if owner is not None and owner.get("token") == self._me["token"]:
                self._store.write(_name(self._number), json.dumps({"released": True}).encode())

    def owner(self) -> str:
        """Describe the process that is the writer now."""
        return _describe(self._newest()[1] or {})

    def _newest(self) -> tuple[int, dict[str, Any] | None]:
        """Return the number of the newest lease, 0 if there is none, and its owner; None if it was
        released."""
        while True:
            numbers = [
                int(name.rpartition("/")[2])
                for name in self._store.list(_FOLDER)
                if name.rpartition("/")[2].isdecimal()
            ]
            if not numbers:
                return 0, None
            with suppress(FileNotFoundError):  # It has just been renewed.
                owner = self._read(max(numbers))
                assert owner is not None
                return max(numbers), None if owner.get("released") else owner

    def _read(self, number: int) -> dict[str, Any] | None:
        """Return what a lease says of its owner. Raises FileNotFoundError."""
        try:
            owner = json.loads(self._store.read(_name(number)))
        except ValueError:
            owner = {}
        return owner if isinstance(owner, dict) else {}

    def _delete(self, numbers: Any) -> None:
        with suppress(StorageError):  # Nobody reads them; the next renewal deletes its own.
            self._store.delete(map(_name, numbers))

    def _in_use(self, owner: Mapping[str, Any]) -> UsageError:
        return UsageError(
            f"{self._store.url} is in use by {_describe(owner)}: stop that run, or give another "
            "place"
        )


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:012d}"


def _this_process() -> dict[str, Any]:
    """Return what identifies this process, for people and for `_is_alive`."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(sys.orig_argv),
        "system": _system(),
        "started": _start_time(os.getpid()),
    }


def _is_alive(owner: Mapping[str, Any]) -> bool | None:
    """Return whether the process that `owner` describes runs; None if it is not of this system, so
    that nobody knows."""
    system = _system()
    if system is None or owner.get("system") != system:
        return None
    return owner.get("started") is not None and _start_time(owner["pid"]) == owner["started"]


def _system() -> str | None:
    """Return what identifies this start of this machine, and its numbering of processes; None if
    the system does not say it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_time(process: int) -> str | None:
    """Return when a process of this machine was started, in ticks; None if there is none."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def _describe(owner: Mapping[str, Any]) -> str:
    if {"pid", "host", "since"} <= owner.keys():
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    return "another process"
