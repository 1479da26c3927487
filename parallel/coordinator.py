"""The store of small texts that all processes of a run share, and whether it is still there.

JAX keeps it in the first process, for itself and for Orbax. It has no public name: only this module
uses it.
"""

import ctypes
import signal
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax._src import distributed

_FOLDER = "triform/"

_CONNECT_SECONDS = 2.0

_GONE_SECONDS = 1.0
"""Time within which a process that is killed stops to listen."""

_kept: list[Any] = []  # Handlers that C may call at any time.


def put(key: str, text: str, *, replace: bool = False) -> None:
    """Store `text` under `key`. replace: whether the key may have a text already."""
    _client().key_value_set(_FOLDER + key, text, allow_overwrite=replace)


def get(key: str, seconds: float) -> str:
    """Return the text of `key` as soon as there is one. Raises TimeoutError after `seconds`."""
    try:
        return _client().blocking_key_value_get(_FOLDER + key, round(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        raise TimeoutError(f"{key} was not stored within {seconds:g} s") from None


def entries(folder: str) -> dict[int, str]:
    """Return the texts that the processes have stored as `folder`/number, by number."""
    found = _client().key_value_dir_get(_FOLDER + folder)
    return {int(key.rpartition("/")[2]): text for key, text in found}


def delete(key: str) -> None:
    """Delete the text of `key`."""
    _client().key_value_delete(_FOLDER + key)


def meet(name: str, seconds: float, members: Iterable[int]) -> None:
    """Wait until the processes `members` have all called this function with this name, which can
    be used once. Raises JaxRuntimeError after `seconds`."""
    _client().wait_at_barrier(_FOLDER + name, round(1000 * seconds), sorted(members))


def is_gone() -> bool:
    """Return whether the first process no longer accepts connections. (If it only stands still, the
    kernel accepts them.)"""
    if jax.process_index() == 0:
        return False
    host, _, port = str(distributed.global_state.coordinator_address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError:
        return True
    return False


def call_when_gone(end: Callable[[], None]) -> None:
    """Call `end` when JAX is about to abort this process because the first one is gone.

    `end` is called in a thread of JAX, whatever the main thread does. If it returns, the process is
    aborted. Aborts for other reasons are left alone. Nothing happens in the first process.
    """
    if jax.process_index() == 0:
        return

    def handle(number: int) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while not (gone := is_gone()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if gone:
            end()

    # Python's own handlers run in the main thread only, and only after `abort` has ended it.
    library = ctypes.CDLL(None)
    library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handle))
    library.signal(signal.SIGABRT, ctypes.cast(_kept[-1], ctypes.c_void_p))


def _client() -> Any:
    return distributed.global_state.client
