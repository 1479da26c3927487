"""The answers to a request in the event loop: the events of their computation, within the request's
deadlines."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from configs.schema.serve import Serve
from serving.errors import ApiError, internal_error, try_again
from serving.worker import Item, Lane, Work, Worker


@dataclass(frozen=True)
class Event:
    """A part of an answer, or its end. index: the number of the answer in the request. content: the
    part, as passed to `Answers.part`; None at the end."""

    index: int
    content: Any = None

    @property
    def is_end(self) -> bool:
        return self.content is None


@dataclass
class Arrival:
    """When a request's header and its body had arrived, in the event loop's time."""

    header: float
    body: float


class Answers:
    """The answers to one request, each computed from an item of `lane`.

    `open` adds the items to the worker's queue; `close` must follow. Iterate over it for the
    events: this raises `ApiError` for a fault of the server, and when a deadline has passed.

    client: the client that sent the request. tokens: for each item, how much it counts in the
    queue. arrival: when the request came; the deadlines count from then on. is_streamed: whether
    answers are passed on in parts, with `part`. The first deadline is then for the first part,
    otherwise for the beginning of the computation.
    """

    def __init__(
        self,
        worker: Worker,
        lane: Lane,
        items: Sequence[Item],
        *,
        client: str,
        tokens: Sequence[int],
        limits: Serve,
        arrival: Arrival,
        is_streamed: bool = False,
    ):
        self._worker, self._limits, self._is_streamed = worker, limits, is_streamed
        self._begins_by = arrival.body + limits.first_token_seconds
        self._ends_by = arrival.header + limits.answer_seconds
        self._works = [
            Work(lane, item, client, count, self._started, self._ended)
            for item, count in zip(items, tokens, strict=True)
        ]
        self._numbers = {id(work): number for number, work in enumerate(self._works)}
        self._events: asyncio.Queue[Event | ApiError] = asyncio.Queue()
        self._left = len(self._works)
        self._has_begun = asyncio.Event()

    def open(self) -> None:
        """Add the items to the queue. Raises `ApiError` if it is full."""
        self._worker.add(self._works)

    def close(self) -> None:
        """Cancel the items that are not done."""
        if self._left:
            for work in self._works:
                self._worker.cancel(work)

    async def __aiter__(self) -> AsyncIterator[Event]:
        await self._begin()
        now = asyncio.get_running_loop().time
        while self._left:
            try:
                if now() >= self._ends_by:  # The timeout below misses events that are ready.
                    raise TimeoutError
                async with asyncio.timeout_at(self._ends_by):
                    event = await self._events.get()
            except TimeoutError:
                raise self._too_late("complete", self._limits.answer_seconds) from None
            if isinstance(event, ApiError):
                raise event
            self._left -= event.is_end
            yield event

    async def wait(self) -> None:
        """Wait until all answers are complete."""
        async for _ in self:
            pass

    def part(self, index: int, content: Any) -> None:
        """Pass on a part of an answer. Only for the worker's thread."""
        self._worker.post(self._put, Event(index, content))

    async def _begin(self) -> None:
        try:
            async with asyncio.timeout_at(self._begins_by):
                await self._has_begun.wait()
        except TimeoutError:
            raise self._too_late("begun", self._limits.first_token_seconds) from None

    def _too_late(self, what: str, seconds: float) -> ApiError:
        return try_again(f"the answer was not {what} within {seconds:g} seconds")

    def _started(self, work: Work) -> None:
        if not self._is_streamed:
            self._has_begun.set()

    def _ended(self, work: Work) -> None:
        if work.error is None:
            self._put(Event(self._numbers[id(work)]))
        else:
            self._put(work.error if isinstance(work.error, ApiError) else internal_error())

    def _put(self, event: Event | ApiError) -> None:
        self._has_begun.set()
        self._events.put_nowait(event)
