"""Turns SIGTERM and SIGINT into stop requests, which the training loop checks after each step."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)

COPY_SECONDS = 0.5
"""A repeated signal within this time is ignored as a copy: the terminal and a launcher such as
`timeout` both send the same Ctrl-C or SIGTERM to their whole process group."""


class Stopped(BaseException):
    """Raised by a signal in a block that may be left at any point (`StopSignals.interrupting`)."""


class StopSignals:
    """Records the first signal: `with StopSignals() as signals: ...`.

    `received` is the name of the first signal, None until then; the loop reads it after each step.
    The first signal of each kind is reported on standard error at once, with `promise`: when the
    run stops. A second one of the same kind ends the process with status 128 + its number, without
    saving.

    Python runs signal handlers only between two bytecodes of the main thread, which may be busy
    with a compilation for minutes. So a thread reads the signals from a pipe
    (`signal.set_wakeup_fd`). Enter the context in the main thread only (`signal` raises ValueError
    elsewhere); leaving it restores the previous handlers.
    """

    def __init__(self, promise: str = "saving at the end of this step, then stopping"):
        self.received: str | None = None
        self.promise = promise
        self._is_interruptible = False
        self._seen: dict[signal.Signals, float] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._in_main_thread) for number in SIGNALS}
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._previous_descriptor = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="stop-signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._previous_descriptor)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writing)  # The thread then reads end-of-file and ends.
        self._thread.join()
        os.close(self._reading)

    def is_received(self) -> bool:
        """Return whether a signal has come."""
        return self.received is not None

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise `Stopped` in this context, in the main thread, at the first signal; at once, if it
        has come before."""
        self._is_interruptible = True
        try:
            if self.received is not None:
                raise Stopped
            yield
        finally:
            self._is_interruptible = False

    def _in_main_thread(self, number: int, frame: FrameType | None) -> None:
        """Replace the signal's default action: the thread handles the signal."""
        if self._is_interruptible:
            self._is_interruptible = False  # What the block does to clean up is not interrupted.
            self.received = self.received or signal.Signals(number).name
            raise Stopped

    def _listen(self) -> None:
        while numbers := os.read(self._reading, 64):
            for number in numbers:
                if number in SIGNALS:
                    self._take(signal.Signals(number))

    def _take(self, kind: signal.Signals) -> None:
        now = time.monotonic()
        if kind not in self._seen:
            self._seen[kind] = now
            self.received = self.received or kind.name
            _say(f"{kind.name}: {self.promise}; once more to stop at once")
        elif now - self._seen[kind] > COPY_SECONDS:
            _say(f"{kind.name} again: stopped at once, nothing saved since the last checkpoint")
            if sys.__stderr__ is not None and sys.__stderr__.isatty():
                os.write(2, b"\x1b[?25h")  # A progress bar hides the cursor.
            os._exit(128 + kind)


def _say(text: str) -> None:
    with suppress(OSError):  # Even if the terminal is closed, the signal must be handled.
        print(text, file=sys.stderr, flush=True)
