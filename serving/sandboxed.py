"""The program of a process of `serving.sandbox.Sandbox`: calls functions on what clients send.

python -m serving.sandboxed MEMORY_BYTES SECONDS [MODULE ...]

Reads pickled functions and arguments from standard input, and writes each result to standard
output, until the input ends. This module imports no JAX, nor may those of the functions.
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
READY = b"!"
"""What a process writes when it can take tasks."""

MAPPED_BYTES = 1 << 30
"""Address space beside the memory, for programs and libraries, which are mapped and mostly not
read."""


class Status(enum.IntEnum):
    """What became of a task: a result, a ValueError, another exception; too much memory, too much
    time; no process was there in time."""

    DONE = 0
    REFUSED = 1
    FAULT = 2
    LARGE = 3
    SLOW = 4
    BUSY = 5


def encoded(result: Any) -> bytes:
    """Return a result as bytes: each part of a tuple with a line of JSON before it. Raises
    TypeError for what is neither an array nor JSON."""
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
    """Return the result that `encoded` wrote. Raises ValueError for anything else."""
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
    """Do the tasks on standard input until it ends.

    memory: in bytes. seconds: processor time of a task, after which the process is killed, also if
    the server is not there any more.
    """
    for name in ("SIGINT", "SIGTERM"):  # It ends with the server, or is killed by it.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # What libraries print must not get among the results.
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
    """Bound what this process takes: memory, and files, of which it needs none to write."""
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
