"""The thread that runs the model: it takes waiting work in a fair order, and steps the engine.

The event loop's thread adds and cancels work. The worker's thread runs it, and reports to the event
loop what has begun and what is done.
"""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.errors import ApiError, invalid, try_again
from serving.queueing import FairQueue

STEP_SECONDS = 1.0
"""Time for which `Worker.stop` waits for the current step."""

SHARED_SECONDS = 300.0
"""Time for which a lane keeps places for other clients, after requests of more than one client."""


TURNS_PER_REFUSAL = 1 / 64
"""Approximate processor time of refusing a request, relative to answering one."""


class Stepper(Protocol):
    """Computes answers in steps: `inference.engine.engine.Engine` or
    `inference.engine.batcher.Batcher`."""

    def add(self, item: Any) -> None: ...

    def cancel(self, item: Any) -> None: ...

    def step(self) -> bool: ...


class Item(Protocol):
    """A unit of a stepper's work: a job of the engine, or a ticket of a batcher."""

    @property
    def has_begun(self) -> bool: ...

    @property
    def is_done(self) -> bool: ...


@dataclass(eq=False)
class Lane:
    """A stepper, its queue of waiting work, and its running work.

    capacity: number of items that the stepper is given at the same time. Some of them may not have
    begun, so that the next one is ready when another one is done. kept: number of these places that
    no client can take while several clients share the lane, so that its long answers do not block
    the others. A client that is alone may take all places.
    """

    stepper: Stepper
    capacity: int
    kept: int = 0
    waiting: "FairQueue[Work]" = field(default_factory=FairQueue)
    running: "list[Work]" = field(default_factory=list)
    _last_client: str | None = None
    _shared_until: float = -math.inf

    def add(self, work: "Work") -> None:
        """Add a piece of work to the queue."""
        self.waiting.add(work.client, work)
        if self._last_client not in (None, work.client):
            self._shared_until = time.monotonic() + SHARED_SECONDS
        self._last_client = work.client

    def take(self) -> "Work | None":
        """Remove and return the next piece of work for the stepper; None if nothing can be started
        now."""
        if len(self.running) >= self.capacity:
            return None
        if time.monotonic() > self._shared_until:
            return self.waiting.take()
        taken = Counter(work.client for work in self.running)
        return self.waiting.take(lambda client: taken[client] < self.capacity - self.kept)


@dataclass(eq=False)
class Work:
    """An answer to compute.

    client: whose work it is; clients are served in turns. tokens: how much it counts towards the
    bound of waiting tokens. on_start, on_end: called in the event loop when the stepper has begun
    it, and when it is done. added_at, started_at: when it was added, and when the stepper got it,
    as `time.monotonic` gives it. error: why it could not be done: a fault of the server, or an
    `ApiError` for the client. has_begun: whether `on_start` has been scheduled.
    """

    lane: Lane
    item: Item
    client: str
    tokens: int
    on_start: "Callable[[Work], None]"
    on_end: "Callable[[Work], None]"
    added_at: float = field(default_factory=time.monotonic)
    started_at: float = 0.0
    error: BaseException | None = None
    has_begun: bool = False


class Worker:
    """Runs the steppers of `lanes` in a thread.

    most_waiting, most_tokens: bounds of the number of queued items and of their tokens, in all
    lanes together. on_failure: called in the worker's thread with an exception that a stepper
    raised; the worker then ends.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        most_waiting: int,
        most_tokens: int,
        on_failure: Callable[[BaseException], None],
    ):
        self._lanes, self._on_failure = lanes, on_failure
        self._most_waiting, self._most_tokens = most_waiting, most_tokens
        self._changed = threading.Condition()
        self._outbox: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._is_stopped = self._has_failed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._seconds_per_item = 1.0
        self.waiting_tokens = 0

    @property
    def waiting(self) -> int:
        """Return the number of items that have not begun, in the queue or in a stepper."""
        return self._queued + sum(len(lane.running) for lane in self._lanes) - self.running

    @property
    def running(self) -> int:
        """Return the number of items that the model is working on."""
        return sum(work.item.has_begun for lane in self._lanes for work in lane.running)

    @property
    def _queued(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread. loop: the event loop in which callbacks are called."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its current step, and wait for that at most `STEP_SECONDS`. Work
        that is not done is left as it is."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(STEP_SECONDS)

    def add(self, works: Sequence[Work]) -> None:
        """Add all of `works`, which must be of one client, to the queue. If they exceed the bounds,
        waiting work of other clients may be refused in their place; otherwise none of them is
        added, and `ApiError` is raised. Only for the event loop's thread."""
        tokens = sum(work.tokens for work in works)
        with self._changed:
            self.check_room(len(works), tokens)
            displaced = self._displaced(works, tokens)
            for work in displaced:
                work.lane.waiting.remove(work.client, work)
                self.waiting_tokens -= work.tokens
            for work in works:
                work.lane.add(work)
            self.waiting_tokens += tokens
            self._changed.notify()
        for work in displaced:
            work.error = self._full()
            work.on_end(work)

    def check_queue(self, client: str) -> None:
        """Raise `ApiError` 429 if nothing can be added for a client: the queue is full, and no
        other client has at least two items more in it. Called before a body is parsed, so that a
        refusal takes little time from the other requests. A refusal is charged to the client."""
        with self._changed:
            if self._queued >= self._most_waiting:
                waiting: Counter[str] = Counter()
                for lane in self._lanes:
                    waiting.update(lane.waiting.sizes())
                if waiting[client] + 1 > max(waiting.values()) - 1:
                    for lane in self._lanes:
                        lane.waiting.charge(client, TURNS_PER_REFUSAL)
                    raise self._full()

    def _displaced(self, works: Sequence[Work], tokens: int) -> list[Work]:
        """Return the work to remove from the queue so that `works`, which are of one client, fit
        in.

        While tokens or places are short, this is the newest work of the client that has most of
        them, provided that it keeps at least as much as the client of `works` will have. So a
        client that sends little is not refused because another one fills the queue. Raises
        `ApiError` 429 if there is still too little room.
        """
        tokens += self.waiting_tokens - self._most_tokens
        count = self._queued + len(works) - self._most_waiting
        waiting = (work for lane in self._lanes for work in lane.waiting)
        left = sorted(waiting, key=lambda work: work.added_at)
        displaced: list[Work] = []
        while tokens > 0 or count > 0:
            size = _tokens if tokens > 0 else _one
            sizes: Counter[str] = Counter()
            for work in (*left, *works):
                sizes[work.client] += size(work)
            client, most = sizes.most_common(1)[0]
            theirs = (work for work in reversed(left) if work.client == client and size(work))
            newest = next(theirs, None)
            if newest is None or most - size(newest) < sizes[works[0].client]:
                raise self._full()
            left.remove(newest)
            displaced.append(newest)
            tokens, count = tokens - newest.tokens, count - 1
        return displaced

    def _full(self) -> ApiError:
        waiting = self.waiting
        seconds = min(max(round(waiting * self._seconds_per_item), 1), 60)
        message = f"{waiting} requests wait already: try again later"
        return try_again(message, status=429, seconds=seconds)

    def check_room(self, count: int, tokens: int) -> None:
        """Raise `ApiError` 400 if `count` answers to `tokens` prompt tokens would not fit in an
        empty queue, and 503 if the model has failed."""
        if self._has_failed:
            raise try_again("the model has failed: the server must be started again")
        if count > self._most_waiting or tokens > self._most_tokens:
            raise invalid(
                f"the request asks for {count} answers to {tokens} prompt tokens, and at most "
                f"{self._most_waiting} answers to {self._most_tokens} tokens may wait here"
            )

    def cancel(self, work: Work) -> None:
        """Cancel a piece of work, unless it is done. Its slot is free after the current step."""
        with self._changed:
            if work.lane.waiting.remove(work.client, work):
                self.waiting_tokens -= work.tokens
            elif work in work.lane.running:
                work.lane.stepper.cancel(work.item)
                self._changed.notify()

    def give_up(self, error: ApiError) -> None:
        """Cancel all work, and end it with `error`. Only for the event loop's thread."""
        with self._changed:
            works = [w for lane in self._lanes for w in (*lane.waiting, *lane.running)]
        for work in works:
            work.error = error
            self.cancel(work)
            work.on_end(work)

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop after the current step. Only for the worker's
        thread."""
        self._outbox.append((function, arguments))

    # ---- The worker's thread.

    def _run(self) -> None:
        try:
            while self._feed():
                busy = [lane.stepper.step() for lane in self._lanes]
                self._settle()
                self._deliver()
                if not any(busy):
                    self._wait()
        except BaseException as error:  # A panic in a library of Rust is not one.
            self._fail(error)

    def _feed(self) -> bool:
        """Give waiting work to the steppers, up to their capacity. Returns False if the thread must
        stop."""
        with self._changed:
            for lane in self._lanes:
                while (work := lane.take()) is not None:
                    self.waiting_tokens -= work.tokens
                    work.started_at = time.monotonic()
                    lane.running.append(work)
                    lane.stepper.add(work.item)
            return not self._is_stopped

    def _settle(self) -> None:
        """Schedule the callbacks of items that have begun or are done, and remove those that are
        done."""
        with self._changed:
            for lane in self._lanes:
                for work in lane.running:
                    if work.item.has_begun and not work.has_begun:
                        work.has_begun = True
                        self.post(work.on_start, work)
                done = [work for work in lane.running if work.item.is_done]
                lane.running = [work for work in lane.running if not work.item.is_done]
                for work in done:
                    self.post(work.on_end, work)
                    lasted = (time.monotonic() - work.started_at) / lane.capacity
                    self._seconds_per_item += (lasted - self._seconds_per_item) / 16

    def _deliver(self) -> None:
        """Pass all callbacks of a step to the event loop, which wakes once for them."""
        outbox, self._outbox = self._outbox, []
        if outbox and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_call_all, outbox)

    def _wait(self) -> None:
        with self._changed:
            if not self._is_stopped and not self.waiting and not self.running:
                self._changed.wait()

    def _fail(self, error: BaseException) -> None:
        """End all work with an error, and report that the model has failed."""
        with self._changed:
            for lane in self._lanes:
                for work in [*lane.running, *lane.waiting]:
                    work.error = error
                    self.post(work.on_end, work)
                lane.running, lane.waiting = [], FairQueue()
            self.waiting_tokens, self._has_failed = 0, True
        self._deliver()
        self._on_failure(error)


def _tokens(work: Work) -> int:
    return work.tokens


def _one(work: Work) -> int:
    return 1


def _call_all(calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    for function, arguments in calls:
        function(*arguments)
