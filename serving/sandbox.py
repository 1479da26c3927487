"""Processes for work on untrusted input: decoding files and rendering chat templates.

Such work can take any time and memory, or crash its process. Here it has limits of time and memory;
a process that exceeds them is killed and replaced while the others go on.

A process gets pickled tasks. It answers with JSON and arrays only, because a file that exploits a
bug in a decoder may have taken it over. It inherits no sockets, and of the environment only
`INHERITED`.
"""

import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from serving.errors import ApiError, invalid, try_again
from serving.log import log
from serving.sandboxed import LENGTH_BYTES, READY, Status, decoded
from serving.threads import FairThreads

ROOT = Path(__file__).parents[1]

WAITING_PER_PROCESS = 16
"""Number of a client's tasks that may wait for each process; further ones are refused."""

INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""Environment variables that a process inherits."""

ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that limit the libraries of a process to one thread."""


class SandboxFault(Exception):
    """A function raised an unexpected exception in its process. The message is its traceback."""


class Sandbox:
    """Runs functions in `processes` processes. Each process may use `memory_mb` MB of memory, and
    each call may take `seconds` seconds.

    Functions and arguments must be picklable, and the functions' modules must not import JAX. A
    result must be an array, a JSON value, or a tuple of these.
    """

    def __init__(self, processes: int, memory_mb: int, seconds: float):
        self._seconds, self._memory_mb = seconds, memory_mb
        most = processes * (1 + WAITING_PER_PROCESS)
        self._threads = FairThreads(processes, most_of_one=most, name="sandbox")
        self._processes = [_Process(memory_mb << 20, seconds) for _ in range(processes)]
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def preload(self, *modules: str) -> None:
        """Import modules in the processes when they start. To be called before `start`."""
        for process in self._processes:
            process.modules += modules

    def start(self) -> None:
        """Start the processes in the background."""
        for process in self._processes:
            self._threads.submit(process.start)

    def stop(self) -> None:
        """Kill the processes, even if they are working."""
        self._threads.stop()
        for process in self._processes:
            process.stop()

    @property
    def pids(self) -> list[int]:
        """Return the ids of the running processes."""
        return [process.pid for process in self._processes if process.pid is not None]

    async def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        client: str = "",
        param: str | None = None,
    ) -> Any:
        """Call `function(*arguments)` in a process, and return its result.

        client: the client whose turn is used. param: the parameter of the request that the work is
        for, for error messages.

        Raises ValueError with the function's message if the function does, `ApiError` 400 if the
        work takes too much time or memory, 429 and 503 if the processes are busy, and
        `SandboxFault` if the function raises any other exception.
        """
        running = self._threads.run(
            client,
            partial(self._run, function, arguments, time.monotonic()),
            full="too many files and conversations wait here",
        )
        del arguments
        status, content = await running
        if status is Status.DONE:
            return decoded(content)
        if status is Status.REFUSED:
            raise ValueError(content.decode())
        if status is Status.FAULT:
            raise SandboxFault(content.decode(errors="replace"))
        raise self._error(status, param)

    def _run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], submitted_at: float
    ) -> tuple[Status, bytes]:
        """Call a function in an idle process. The status is BUSY if none was idle within the time
        limit of a call."""
        process = self._idle.get()
        try:
            if time.monotonic() - submitted_at > self._seconds:
                return Status.BUSY, b""
            return process.run(function, arguments)
        finally:
            self._idle.put(process)

    def _error(self, status: Status, param: str | None) -> ApiError:
        if status is Status.BUSY:
            return try_again("files and conversations wait too long here: try again")
        if status is Status.SLOW:
            message = f"processing it takes longer than {self._seconds:g} seconds, the limit here"
            return invalid(message, param, "too_slow")
        message = f"processing it takes more memory than {self._memory_mb} MB, the limit here"
        return invalid(message, param, "too_large")


class _Process:
    """A process, which is started by `start` or for its first task, and again after one that ended
    it.

    memory: in bytes. seconds: time limit of a task. Only one thread at a time may call `start` and
    `run`.
    """

    def __init__(self, memory: int, seconds: float):
        self._memory, self._seconds = memory, seconds
        self.modules: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_ready = self._is_stopped = False

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Start the process unless it runs."""
        with self._lock:
            has_ended = self._process is not None and self._process.poll() is not None
            if (self._process is None or has_ended) and not self._is_stopped:
                self._process, self._is_ready = self._started(), False

    def _started(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= dict.fromkeys(ONE_THREAD, "1")
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        arguments = [str(self._memory), str(self._seconds), *self.modules]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "serving.sandboxed", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is only for the server.
        )

    def stop(self) -> None:
        """Kill the process for good."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Status, bytes]:
        """Call a function in the process. Return the status of the task, and the encoded result or
        the error message."""
        self.start()
        process = self._process
        if process is None:
            return Status.BUSY, b""
        assert process.stdout is not None
        if not self._is_ready:  # Starting is not part of the task's time.
            self._is_ready = process.stdout.read(1) == READY
        if not self._is_ready:
            return self._replaced(process, Status.BUSY)
        tasks = [pickle.dumps(part, protocol=5) for part in (function, arguments)]
        is_late = threading.Event()

        def kill() -> None:
            is_late.set()
            process.kill()

        timer = threading.Timer(self._seconds, kill)
        timer.start()
        try:
            answer = _exchange(process, tasks, most_bytes=self._memory)
        finally:
            timer.cancel()
        if is_late.is_set():
            return self._replaced(process, Status.SLOW)
        if answer is None or answer[0] is Status.LARGE:
            return self._replaced(process, Status.LARGE)
        return answer

    def _replaced(self, process: subprocess.Popen[bytes], status: Status) -> tuple[Status, bytes]:
        """Kill a process that has failed, and start another. Returns the status of its task, and no
        content."""
        process.kill()
        if (code := process.wait()) == -signal.SIGPROF:
            status = Status.SLOW
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # Closing flushes what was not read.
                pipe.close()
        with self._lock:
            self._process = None
            if self._is_stopped:
                return Status.BUSY, b""
        log("a sandbox process is replaced", logging.WARNING, reason=status.name, code=code)
        self.start()
        return status, b""


def _exchange(
    process: subprocess.Popen[bytes], tasks: list[bytes], *, most_bytes: int
) -> tuple[Status, bytes] | None:
    """Send a task, and return the answer; None if the process ends before, or sends something
    invalid. tasks: the pickled function, and its pickled arguments."""
    assert process.stdin is not None and process.stdout is not None
    try:
        for task in tasks:
            process.stdin.write(len(task).to_bytes(LENGTH_BYTES, "little"))
            process.stdin.write(task)
        process.stdin.flush()
    except OSError:
        return None
    head = process.stdout.read(LENGTH_BYTES + 1)
    if len(head) < LENGTH_BYTES + 1:
        return None
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    if length > most_bytes or head[LENGTH_BYTES] > Status.LARGE:
        return None
    content = process.stdout.read(length)
    return (Status(head[LENGTH_BYTES]), content) if len(content) == length else None
