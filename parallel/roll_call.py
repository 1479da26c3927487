"""Names the processes of a run that do not answer, when the others wait for them in vain."""

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import jax

from parallel import coordinator
from parallel.rendezvous import name_processes

T = TypeVar("T")

_LOSS = re.compile("Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|[Cc]onnection|[Bb]arrier")

ANSWER_SECONDS = 10.0
"""How long a process waits for the answers of the others. All of them call the roll at about the
same time: when they have waited for the same thing, each for the same time."""


def is_loss(error: Exception) -> bool:
    """Return whether an error may come from the loss of another process of the run."""
    kinds = (jax.errors.JaxRuntimeError, ValueError)  # JAX raises the second at a dispatch.
    return isinstance(error, kinds) and _LOSS.search(str(error)) is not None


class RollCall:
    """What the processes of a run say to each other when nothing moves, through the coordinator.

    A process that is stopped, dead or cut off says nothing. The coordinator is process 0.

    waiting_in: what this process waits in.

    `answers` are those of all processes that answered in time, by their number; {} if the
    coordinator does not answer.
    """

    def __init__(self, waiting_in: str):
        self._count = jax.process_count()
        self.answers: dict[int, str] = {}
        if self._count > 1:
            index = jax.process_index()
            if not coordinator.is_gone():
                answers = _in_time(lambda: self._gather(index, waiting_in), ANSWER_SECONDS + 5)
                self.answers = answers or {}

    @property
    def missing(self) -> set[int]:
        """The processes that do not answer."""
        if self._count == 1:
            return set()
        return set(range(self._count)) - self.answers.keys() if self.answers else {0}

    def describe(self) -> str:
        """Return who is missing, or else what each process waits in; "" if there is only one."""
        if self._count == 1:
            return ""
        if self.missing:
            verb = "does" if len(self.missing) == 1 else "do"
            return f"{name_processes(self.missing)} of {self._count} {verb} not answer"
        return "; ".join(f"process {n}: {what}" for n, what in sorted(self.answers.items()))

    def leave_together(self) -> None:
        """Wait until all that answered are about to end, since JAX in the others aborts as soon as
        one of them has ended."""
        if len(self.answers) > 1:
            _in_time(lambda: coordinator.meet("end", 5, self.answers), 6)

    def _gather(self, index: int, waiting_in: str) -> dict[int, str]:
        deadline = time.monotonic() + ANSWER_SECONDS
        coordinator.put(f"roll_call/{index}", waiting_in, replace=True)
        while True:
            answers = coordinator.entries("roll_call")
            if len(answers) == self._count or time.monotonic() > deadline:
                return answers
            time.sleep(0.2)


def _in_time(function: Callable[[], T], seconds: float) -> T | None:
    """Return what `function` returns; None if it raises, or takes longer than `seconds`."""
    results: list[T] = []

    def call() -> None:
        with suppress(Exception):
            results.append(function())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None
