"""Dynamic batching: inputs that come at nearly the same time are answered in one batch.

For models that answer an input as a whole: classifiers, encoders, speech recognisers, translators.
Texts that are written token by token share the slots of `inference.engine.engine.Engine`, which is
used in the same way: submit, cancel, step.
"""

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from configs.errors import UsageError

Input = TypeVar("Input")
Output = TypeVar("Output")

WAIT_SECONDS = 0.004
"""How long the first input of a batch waits for others."""


class Ticket(Generic[Input, Output]):
    """An input that was submitted, and what became of it.

    output: the answer; None until it is there, and for an input without one. error: why there is no
    answer. is_ended: whether there is one of them. is_cancelled: whether the answer is not wanted
    any more. has_begun: whether a batcher has it, for one of the next batches. submitted_at: a time
    of `time.perf_counter`. on_end: called once there is an output or an error.
    """

    def __init__(
        self,
        content: Input,
        on_end: "Callable[[Ticket[Input, Output]], None] | None" = None,
    ):
        self.content, self.on_end = content, on_end
        self.output: Output | None = None
        self.error: UsageError | None = None
        self.has_begun = self.is_cancelled = self.is_ended = False
        self.submitted_at = time.perf_counter()

    @property
    def is_done(self) -> bool:
        """Return whether nothing more is done for the input."""
        return self.is_ended or self.is_cancelled

    def end(self, output: Output | None, error: UsageError | None = None) -> None:
        """Keep the answer or the error, and tell `on_end`."""
        self.output, self.error, self.is_ended = output, error, True
        if self.on_end is not None:
            self.on_end(self)


class Batcher(Generic[Input, Output]):
    """Answers inputs in batches: as soon as `most_rows` inputs wait, or after the first of them has
    waited for `wait_seconds`.

    answer: returns the answers to some inputs, in order; raises `UsageError` for an input that
    can't be answered. The other inputs of its batch are then answered without it.

    The batcher runs in the thread that calls `step`; `submit` and `cancel` may be called from other
    threads.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Input]], Iterable[Output]],
        *,
        most_rows: int,
        wait_seconds: float = WAIT_SECONDS,
    ):
        self._answer, self._most_rows, self._wait_seconds = answer, most_rows, wait_seconds
        self._submitted: queue.SimpleQueue[Ticket[Input, Output]] = queue.SimpleQueue()

    def submit(
        self,
        content: Input,
        on_end: "Callable[[Ticket[Input, Output]], None] | None" = None,
    ) -> Ticket[Input, Output]:
        """Add an input. Its answer is in `Ticket.output` when a step has answered it."""
        ticket = Ticket(content, on_end)
        self.add(ticket)
        return ticket

    def add(self, ticket: Ticket[Input, Output]) -> None:
        """Add an input as a ticket."""
        ticket.submitted_at, ticket.has_begun = time.perf_counter(), True
        self._submitted.put(ticket)

    def cancel(self, ticket: Ticket[Input, Output]) -> None:
        """Leave an input out, unless its batch is being answered."""
        ticket.is_cancelled = True

    def run(self) -> None:
        """Work until every input is answered."""
        while self.step():
            pass

    def step(self) -> bool:
        """Collect a batch and answer it. Returns whether there is more to do.

        Any other exception than `UsageError` that `answer` raises is raised here, and is not kept
        in the tickets.
        """
        batch: list[Ticket[Input, Output]] = []
        while len(batch) < self._most_rows:
            try:
                ticket = self._submitted.get(timeout=self._seconds_left(batch))
            except queue.Empty:
                break
            if not ticket.is_cancelled:
                batch.append(ticket)
        if batch := [ticket for ticket in batch if not ticket.is_cancelled]:
            self._end(batch)
        return not self._submitted.empty()

    def _seconds_left(self, batch: Sequence[Ticket[Input, Output]]) -> float:
        """Return how long the next input is waited for: not at all for the first one."""
        if not batch:
            return 0
        waited = time.perf_counter() - batch[0].submitted_at
        return max(self._wait_seconds - waited, 0)

    def _end(self, batch: Sequence[Ticket[Input, Output]]) -> None:
        try:
            outputs = list(self._answer([ticket.content for ticket in batch]))
        except UsageError as error:
            if len(batch) > 1:
                for ticket in batch:
                    self._end([ticket])
            else:
                batch[0].end(None, error)
            return
        for ticket, output in zip(batch, outputs, strict=True):
            ticket.end(output)
