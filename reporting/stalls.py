"""Says why a process ends before its time: nothing moves any more, or other processes are gone."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from parallel import coordinator
from parallel.rendezvous import Absent
from parallel.roll_call import RollCall, is_loss
from training.watchdog import REPORT_SECONDS, STALLED


class Stalls:
    """Reports the stalls of a process to the user.

    seconds: how long nothing moves before it is a stall.
    advice: a sentence that says what the user may do.
    notify: prints a line. What shows progress may be what hangs, so that it does not print this
        one.
    note(text): stores it, in the log of a run.
    """

    def __init__(
        self,
        seconds: int | None,
        advice: str,
        notify: Callable[[str], None],
        note: Callable[[str], None] = lambda text: None,
    ):
        self._seconds, self._advice = seconds, advice
        self._notify, self._note = notify, note
        self._is_ending = threading.Lock()  # Held from the first report on.

    def report(self, what: str) -> None:
        """Say that nothing moves any more, and which processes do not answer. The process must end
        next. what: what was done last."""
        roll_call = RollCall(what)
        who = roll_call.describe()
        limit = f"{self._seconds} s (train.hang_seconds)"
        self._say(f"nothing has moved for {limit}: {what}" + (f"; {who}" if who else ""))
        roll_call.leave_together()

    @contextmanager
    def naming_lost_processes(self) -> Iterator[None]:
        """End the process with the status `STALLED` if an error leaves this context that says that
        another process is gone, or comes from it; name that process.

        The first process of a run is named too if JAX ends this one because of it.
        """
        coordinator.call_when_gone(lambda: self._end("JAX has lost its coordinator", RollCall("")))
        try:
            yield
        except Absent as error:
            self._say(str(error))
            os._exit(STALLED)  # At a usual end, JAX would wait for the others.
        except Exception as error:
            if is_loss(error):
                (what, *_) = str(error).splitlines() or [type(error).__name__]
                if (roll_call := RollCall(what)).missing:
                    self._end(what, roll_call)
            raise

    def _end(self, what: str, roll_call: RollCall) -> None:
        self._say(f"{roll_call.describe()}: {what}")
        roll_call.leave_together()
        os._exit(STALLED)

    def _say(self, text: str) -> None:
        if not self._is_ending.acquire(blocking=False):
            time.sleep(REPORT_SECONDS)  # Another thread has said it, and ends the process.
        self._notify(f"{text}. {self._advice}")
        self._note(text)
