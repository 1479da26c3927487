"""Dynamic batching: inputs that arrive at nearly the same time are answered in one batch.

The batcher is for models that answer an input as a whole, such as classifiers, encoders, speech
recognisers and translators. Texts that are generated token by token share the slots of
`inference.engine.engine.Engine` instead. Both classes have the same methods: `submit`, `add`,
`cancel`, `run` and `step`.
"""

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from configs.errors import UsageError

Input = TypeVar("Input")
Output = TypeVar("Output")

WAIT_SECONDS = 0.004
"""Time for which the first input of a batch waits for more inputs."""


class Ticket(Generic[Input, Output]):
    """An input and, once it is answered, its output or error.

    content: the input.
    on_end: called with the ticket when it has an output or an error.
    output: the answer; None until the input is answered, and if it failed.
    error: the reason why the input can't be answered; None if there is no error.
    is_ended: whether there is an output or an error.
    is_cancelled: whether the answer is no longer wanted.
    has_begun: whether the ticket was added to a batcher.
    submitted_at: when it was added to a batcher, by `time.perf_counter`; until then, when it was
        created.
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
        """Return whether no more work is done for the input: it has ended or was cancelled."""
        return self.is_ended or self.is_cancelled

    def end(self, output: Output | None, error: UsageError | None = None) -> None:
        """Store the output or the error, and call `on_end`."""
        self.output, self.error, self.is_ended = output, error, True
        if self.on_end is not None:
            self.on_end(self)


class Batcher(Generic[Input, Output]):
    """Answers inputs in batches. A batch starts as soon as `most_rows` inputs wait, or when its
    first input has waited for `wait_seconds`.

    answer: returns the answers to at most `most_rows` inputs, in order. It raises `UsageError` if
        an input can't be answered; each input of the batch is then answered alone, and only the
        inputs that raise again fail.

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
        """Add an input. After a step has answered it, the answer is in `Ticket.output`."""
        ticket = Ticket(content, on_end)
        self.add(ticket)
        return ticket

    def add(self, ticket: Ticket[Input, Output]) -> None:
        """Add the input of a ticket. The time that it waits counts from now."""
        ticket.submitted_at, ticket.has_begun = time.perf_counter(), True
        self._submitted.put(ticket)

    def cancel(self, ticket: Ticket[Input, Output]) -> None:
        """Drop an input, unless its batch is already being answered."""
        ticket.is_cancelled = True

    def run(self) -> None:
        """Run steps until every input is answered."""
        while self.step():
            pass

    def step(self) -> bool:
        """Collect a batch and answer it. Returns whether more inputs wait.

        An exception of `answer` other than `UsageError` is raised to the caller; the tickets of the
        batch then have neither an output nor an error.
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
        """Return how long to wait for the next input of a batch; 0 if the batch is empty."""
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
