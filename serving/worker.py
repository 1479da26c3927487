"""The thread that lets the model work: it takes what waits, in fair order, and steps the engine.

The event loop's thread adds and cancels work; this thread starts it, and tells what became of it.
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
"""Time to wait for the running step at the end."""

SHARED_SECONDS = 300.0
"""Time for which a lane is kept ready for other clients, after more than one has used it."""


TURNS_PER_REFUSAL = 1 / 64
"""What the refusal of a request takes of the processors, relative to an answer, about."""


class Stepper(Protocol):
    """What does the work: `inference.engine.engine.Engine` or
    `inference.engine.batcher.Batcher`."""

    def add(self, item: Any) -> None: ...

    def cancel(self, item: Any) -> None: ...

    def step(self) -> bool: ...


class Item(Protocol):
    """What a stepper works on: a job of the engine, or a ticket of a batcher."""

    @property
    def has_begun(self) -> bool: ...

    @property
    def is_done(self) -> bool: ...


@dataclass(eq=False)
class Lane:
    """A stepper, and what waits for it.

    capacity: number of items that it is given at the same time. Those that it has not begun wait
    too, so that it has one at hand when another one is done. kept: how many of these places no
    client gets beside all others, so that its long answers do not let other clients wait; while one
    client is alone, all places are its own.
    """

    stepper: Stepper
    capacity: int
    kept: int = 0
    waiting: "FairQueue[Work]" = field(default_factory=FairQueue)
    running: "list[Work]" = field(default_factory=list)
    _last_client: str | None = None
    _shared_until: float = -math.inf

    def add(self, work: "Work") -> None:
        """Let a piece of work wait."""
        self.waiting.add(work.client, work)
        if self._last_client not in (None, work.client):
            self._shared_until = time.monotonic() + SHARED_SECONDS
        self._last_client = work.client

    def take(self) -> "Work | None":
        """Remove and return what the stepper should be given next; None if it must wait."""
        if len(self.running) >= self.capacity:
            return None
        if time.monotonic() > self._shared_until:
            return self.waiting.take()
        taken = Counter(work.client for work in self.running)
        return self.waiting.take(lambda client: taken[client] < self.capacity - self.kept)


@dataclass(eq=False)
class Work:
    """An answer to compute.

    client: whose it is; clients are served in turns. tokens: what it counts in the bound of the
    queue. on_start, on_end: called in the event loop when the stepper has begun it, and when it is
    done. added_at, started_at: when it was added, and given to the stepper: times of
    `time.monotonic`. error: why it could not be done: a fault of the server, or an `ApiError` for
    the client.
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

    most_waiting, most_tokens: bounds of what waits in all lanes. on_failure: called in the worker's
    thread with an exception that a stepper raised; nothing is computed after it.
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
        """Return the number of items that wait in the queue or in a stepper."""
        return self._queued + sum(len(lane.running) for lane in self._lanes) - self.running

    @property
    def running(self) -> int:
        """Return the number of items that the model works on."""
        return sum(work.item.has_begun for lane in self._lanes for work in lane.running)

    @property
    def _queued(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to work. loop: where the callbacks are called."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step that it takes; a long step is not waited for. What is not
        done is left."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(STEP_SECONDS)

    def add(self, works: Sequence[Work]) -> None:
        """Add all of `works`, which are of one client, or none: raises `ApiError` if they exceed
        the bounds. Only for the event loop's thread."""
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
        """Raise `ApiError` if nothing more can be added for a client: the queue is full, and no
        other client has more in it. A refusal that is known before a request is read costs little
        of the time in which others are answered."""
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
        """Return what must leave the queue so that `works` of one client have room: each time the
        newest of the client that has most of what is short, tokens or answers; it keeps at least
        as much as this client then has.

        Raises `ApiError` if that is not enough. So who sends little is not refused because of
        another one who fills the queue.
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
        """Raise `ApiError` if `count` answers to so many prompt tokens can never be added."""
        if self._has_failed:
            raise try_again("the model has failed: the server must be started again")
        if count > self._most_waiting or tokens > self._most_tokens:
            raise invalid(
                f"the request asks for {count} answers to {tokens} prompt tokens, and at most "
                f"{self._most_waiting} answers to {self._most_tokens} tokens may wait here"
            )

    def cancel(self, work: Work) -> None:
        """Give up a piece of work, unless it is done. Its slot is free after the running step."""
        with self._changed:
            if work.lane.waiting.remove(work.client, work):
                self.waiting_tokens -= work.tokens
            elif work in work.lane.running:
                work.lane.stepper.cancel(work.item)
                self._changed.notify()

    def give_up(self, error: ApiError) -> None:
        """Cancel all work, and end it with an error. Only for the event loop's thread."""
        with self._changed:
            works = [w for lane in self._lanes for w in (*lane.waiting, *lane.running)]
        for work in works:
            work.error = error
            self.cancel(work)
            work.on_end(work)

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the event loop, after this step. Only for the worker's thread."""
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
        except BaseException as error:  # A library's panic is no Exception.
            self._fail(error)

    def _feed(self) -> bool:
        """Give the steppers what waits, as far as they have room. Returns False to stop."""
        with self._changed:
            for lane in self._lanes:
                while (work := lane.take()) is not None:
                    self.waiting_tokens -= work.tokens
                    work.started_at = time.monotonic()
                    lane.running.append(work)
                    lane.stepper.add(work.item)
            return not self._is_stopped

    def _settle(self) -> None:
        """Tell of the items that have begun, and of those that are done."""
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
        """Wake the event loop once for all that happened in a step."""
        outbox, self._outbox = self._outbox, []
        if outbox and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_call_all, outbox)

    def _wait(self) -> None:
        with self._changed:
            if not self._is_stopped and not self.waiting and not self.running:
                self._changed.wait()

    def _fail(self, error: BaseException) -> None:
        """End all work with an error."""
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
