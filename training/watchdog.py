"""Ends a run that hangs: prints the stacks of all threads, and exits with a status of its own."""

import ctypes
import faulthandler
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

STALLED = int(signal.SIGALRM)
"""Exit status of a run in which nothing moved for too long: 14."""

REPORT_SECONDS = 30.0
"""How long the report of a stall may take, before the process ends without it."""

_LATE_SECONDS = 1.0
"""Time after the limit at which the process ends if no thread of Python could run by then."""

_STUCK_SECONDS = 10.0
"""Time after which the process ends if the stacks can't be printed, as nobody reads them."""


class Watchdog:
    """Ends the process if nothing moves for `seconds`: `with Watchdog(...) as watchdog: ...`.

    `beat(what)` says that the run moves, and what it does next. If the next beat does not come in
    time, a thread calls `report`. Then the stacks of all threads are printed on standard error, and
    the process ends with the status `STALLED`.

    The end does not need Python's interpreter lock, which a hanging library may hold. It is the
    signal of a timer: its handlers, both in C, print the stacks and call `_exit` with the number of
    the signal. If the lock is held, only the call of `report` is missing.

    seconds: the limit; None: the process may wait for ever.
    report(what): tells the user what was done when nothing moved any more; it may take
        `REPORT_SECONDS`.

    Nothing is watched before the first beat, nor between `pause` and the next one. Enter the
    context in the main thread only; leaving it restores the handler and the timer of before.
    """

    def __init__(self, seconds: float | None, report: Callable[[str], None]):
        self._seconds, self._report = seconds, report
        self._doing, self._deadline = "", math.inf
        self._left = threading.Event()

    def beat(self, what: str) -> None:
        """Say that the run moves, and what it does next: "step 12". Takes about a microsecond."""
        if self._seconds is None:
            return
        self._doing, self._deadline = what, time.monotonic() + self._seconds
        signal.setitimer(signal.ITIMER_REAL, self._seconds + _LATE_SECONDS, _STUCK_SECONDS)

    def beat_again(self) -> None:
        """Say that what the run does moves, such as by one batch of many."""
        if self._deadline < math.inf:
            self.beat(self._doing)

    def pause(self) -> None:
        """Stop watching until the next beat."""
        self._deadline = math.inf
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __enter__(self) -> Self:
        self._timer_before = signal.getitimer(signal.ITIMER_REAL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        library = ctypes.CDLL(None)
        library.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        library.signal(signal.SIGALRM, ctypes.cast(library._exit, ctypes.c_void_p))
        faulthandler.register(signal.SIGALRM, file=2, all_threads=True, chain=True)
        if self._seconds is not None:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._left.set()
        if self._seconds is not None:
            self._thread.join()
        faulthandler.unregister(signal.SIGALRM)
        signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM) or signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, *self._timer_before)

    def _watch(self) -> None:
        assert self._seconds is not None
        while (left := self._deadline - time.monotonic()) > 0:
            if self._left.wait(min(left, self._seconds)):
                return
        signal.setitimer(signal.ITIMER_REAL, REPORT_SECONDS, _STUCK_SECONDS)
        with suppress(Exception):
            self._report(self._doing)
        signal.setitimer(signal.ITIMER_REAL, _STUCK_SECONDS, _STUCK_SECONDS)
        signal.raise_signal(signal.SIGALRM)
