"""The program of a process of `serving.sandbox.Sandbox`: calls functions on untrusted input.

python -m serving.sandboxed MEMORY_BYTES SECONDS [MODULE ...]

Reads pickled functions and arguments from standard input, and writes each result to standard
output, until the input ends. Neither this module nor those of the functions may import JAX.
"""

import contextlib
import enum
import importlib
import io
import json
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

LENGTH_BYTES = 8
"""Size of the length, little-endian, before each function, arguments and result."""
READY = b"!"
"""Written by a process when it can take tasks."""

MAPPED_BYTES = 1 << 30
"""Address space beyond the memory limit, for programs and libraries, which are mapped and mostly
not loaded."""


class Status(enum.IntEnum):
    """The outcome of a task. DONE: a result. REFUSED: a ValueError. FAULT: another exception.
    LARGE: too much memory. SLOW: too much time. BUSY: no process was ready in time."""

    DONE = 0
    REFUSED = 1
    FAULT = 2
    LARGE = 3
    SLOW = 4
    BUSY = 5


def encoded(result: Any) -> bytes:
    """Return a result as bytes: each array or JSON value after a line of JSON that describes it.
    Raises TypeError for anything else."""
    file = io.BytesIO()
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, np.ndarray):
            head: dict[str, Any] = {"dtype": part.dtype.str, "shape": part.shape}
            content = np.ascontiguousarray(part).tobytes()
        else:
            head, content = {}, json.dumps(part).encode()
        head |= {"bytes": len(content), "is_tuple": isinstance(result, tuple)}
        file.write(json.dumps(head).encode() + b"\n" + content)
    return file.getvalue()


def decoded(content: bytes) -> Any:
    """Return the result that `encoded` wrote. Raises ValueError, KeyError or TypeError for other
    bytes."""
    parts, place, is_tuple = [], 0, False
    while place < len(content):
        end = content.index(b"\n", place)
        head, place = json.loads(content[place:end]), end + 1
        part, is_tuple = content[place : place + head["bytes"]], head["is_tuple"]
        place += head["bytes"]
        if "dtype" in head:
            parts.append(np.frombuffer(part, np.dtype(head["dtype"])).reshape(head["shape"]))
        else:
            parts.append(json.loads(part))
    return tuple(parts) if is_tuple or not parts else parts[0]


def main(memory: int, seconds: float, modules: list[str]) -> None:
    """Run the tasks on standard input until it ends.

    memory: in bytes. seconds: processor time of a task, after which a signal ends the process, even
    if the server has ended. modules: imported at the start.
    """
    for name in ("SIGINT", "SIGTERM"):  # It ends with its input, or is killed.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The results get a copy of standard output, so that output of libraries can't mix with them.
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nothing, number)
    for name in modules:
        importlib.import_module(name)
    limit(memory)
    sink.write(READY)
    sink.flush()
    while (function := _read(source)) is not None:
        arguments = _read(source)
        assert arguments is not None
        signal.setitimer(signal.ITIMER_PROF, seconds)  # Its signal ends the process.
        status, content = _call(function, arguments)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(len(content).to_bytes(LENGTH_BYTES, "little") + bytes((status,)))
        sink.write(content)
        sink.flush()
        del arguments, content


def limit(memory: int) -> None:
    """Limit this process to so many bytes of memory, and forbid it to write files or core dumps."""
    bounds = {"RLIMIT_DATA": memory, "RLIMIT_AS": memory + MAPPED_BYTES}
    for name, bound in (bounds | {"RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}).items():
        with contextlib.suppress(AttributeError, OSError, ValueError):  # Not every system has all.
            resource.setrlimit(getattr(resource, name), (bound, bound))


def _read(source: BinaryIO) -> bytes | None:
    length = source.read(LENGTH_BYTES)
    return source.read(int.from_bytes(length, "little")) if len(length) == LENGTH_BYTES else None


@lru_cache(maxsize=16)
def _function(pickled: bytes) -> Callable[..., Any]:
    return pickle.loads(pickled)


def _call(function: bytes, arguments: bytes) -> tuple[Status, bytes]:
    try:
        return Status.DONE, encoded(_function(function)(*pickle.loads(arguments)))
    except MemoryError:
        return Status.LARGE, b""
    except ValueError as error:
        return Status.REFUSED, str(error).encode(errors="replace")
    except Exception:
        return Status.FAULT, traceback.format_exc().encode(errors="replace")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
