"""Gives freed memory back to the system while data are prepared."""

import contextlib
import ctypes
import functools
from collections.abc import Callable


def release_freed_memory() -> None:
    """Give freed memory back to the system, which glibc's malloc keeps otherwise.

    The parts of a text that are encoded at once leave gaps of all sizes behind, in the heap of each
    thread. Without this, preparation holds 8 times the memory that it uses. Other libraries of C
    (musl, macOS) have no such call: nothing happens.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    with contextlib.suppress(AttributeError, OSError):
        trim = ctypes.CDLL(None).malloc_trim
        trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
        return trim
    return None
