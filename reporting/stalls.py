"""Says why a run ends before its time: nothing moves any more, or other processes are gone."""

import os
from collections.abc import Callable

from parallel.roll_call import RollCall, is_loss
from reporting.run_log import RunLog
from training.watchdog import STALLED


class Stalls:
    """Reports the stalls of a run: to the user, and in its log of events.

    seconds: how long nothing moves before it is a stall.
    last_step(): returns the number of steps done.
    notify: prints a line. The log itself may be what hangs, so that it does not print this one.
    """

    def __init__(
        self,
        log: RunLog,
        seconds: int | None,
        last_step: Callable[[], int],
        notify: Callable[[str], None],
    ):
        self._log, self._seconds = log, seconds
        self._last_step, self._notify = last_step, notify

    def report(self, what: str) -> None:
        """Say that nothing moves any more, and which processes do not answer. The process must end
        next. what: what was done last."""
        roll_call = RollCall(what)
        who = roll_call.describe()
        limit = f"{self._seconds} s (train.hang_seconds)"
        self._say(f"nothing has moved for {limit}: {what}" + (f"; {who}" if who else ""))
        roll_call.leave_together()

    def end_if_others_are_gone(self, error: Exception) -> None:
        """End the process with the status `STALLED`, and name the other processes that are gone, if
        that explains `error`."""
        if not is_loss(error):
            return
        (what, *_) = str(error).splitlines() or [type(error).__name__]
        roll_call = RollCall(what)
        if roll_call.missing:
            self._say(f"{roll_call.describe()}: {what}")
            roll_call.leave_together()
            os._exit(STALLED)  # At a usual end, JAX would wait for the others.

    def _say(self, text: str) -> None:
        begins = "goes on from the last checkpoint, or begins again if there is none"
        self._notify(f"{text}. The same command {begins}")
        self._log.event("stalled", self._last_step(), text)
