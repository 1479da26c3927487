"""Threads for work that takes long, which clients share fairly."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from serving.errors import stopping, try_again
from serving.queueing import FairQueue, Room

Result = TypeVar("Result")


class _Call(Future[Any]):
    """The future of a call that waits for a thread."""

    def __init__(self, function: Callable[[], Any]):
        super().__init__()
        self.function = function


class FairThreads:
    """Calls functions in `count` threads: those of different clients in turns.

    most_of_one: number of calls that a client may have, running or waiting, if no other one has
    any; all clients together may have twice as many. name: the threads' name.
    """

    def __init__(self, count: int, *, most_of_one: int, name: str):
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._room = Room(2 * most_of_one)
        self._waiting: FairQueue[_Call] = FairQueue()
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], Any]) -> None:
        """Let a thread call a function that is nobody's, such as one that prepares the others."""
        self._executor.submit(function)

    async def run(self, client: str, function: Callable[[], Result], *, full: str) -> Result:
        """Return `function()`, called in a thread when it is its turn.

        full: the message of the `ApiError` 429 that is raised if the client has too many calls.
        Raises `ApiError` 503 after `stop`. A call is given up if the caller is cancelled before it
        has begun.
        """
        call = _Call(function)
        del function  # It should be free when the call is done, and not wait for the caller.
        with self._lock:
            if not self._room.take(client, 1):
                raise try_again(full, status=429, seconds=2)
            self._waiting.add(client, call)
        call.add_done_callback(partial(self._leave, client))
        try:
            self._executor.submit(self._run_next)
        except RuntimeError:  # after `stop`
            call.cancel()
            raise stopping() from None
        return await asyncio.wrap_future(call)

    def stop(self) -> None:
        """Begin no further calls; end those that wait with an error."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        while (call := self._take()) is not None:
            if call.set_running_or_notify_cancel():
                call.set_exception(stopping())

    def _take(self) -> _Call | None:
        with self._lock:
            return self._waiting.take()

    def _run_next(self) -> None:
        call = self._take()
        if call is None or not call.set_running_or_notify_cancel():
            return  # It was given up.
        try:
            call.set_result(call.function())
        except BaseException as error:
            call.set_exception(error)
        finally:
            del call  # An error's traceback holds this frame: they would be a cycle.

    def _leave(self, client: str, call: "Future[Any]") -> None:
        """Forget a call that is done or given up: its future may be kept for a while."""
        assert isinstance(call, _Call)
        with self._lock:
            self._waiting.remove(client, call)
            self._room.give_back(client, 1)
        del call.function
