"""A thread pool for long calls, which clients share fairly."""

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
    """Calls functions in `count` threads, and takes turns between clients.

    most_of_one: number of calls, running or waiting, that a client may have while no other client
    has any; all clients together may have twice as many. name: prefix of the threads' names.
    """

    def __init__(self, count: int, *, most_of_one: int, name: str):
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._room = Room(2 * most_of_one)
        self._waiting: FairQueue[_Call] = FairQueue()
        self._lock = threading.Lock()

    def submit(self, function: Callable[[], Any]) -> None:
        """Call a function in a thread on behalf of no client, for example to start a process."""
        self._executor.submit(function)

    async def run(self, client: str, function: Callable[[], Result], *, full: str) -> Result:
        """Call a function in a thread when it is the client's turn, and return its result.

        Raises `ApiError` 429 with the message `full` if the client has too many calls, and 503
        after `stop`. If the caller is cancelled before the call has begun, the call is dropped.
        """
        call = _Call(function)
        del function  # It is freed when the call is done, even if the caller still waits.
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
        """Begin no further calls: those that wait raise `ApiError` 503."""
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
            return  # The call was cancelled.
        try:
            call.set_result(call.function())
        except BaseException as error:
            call.set_exception(error)
        finally:
            del call  # Without this: a cycle of the call, its error, the traceback and this frame.

    def _leave(self, client: str, call: "Future[Any]") -> None:
        """Remove a call that is done or cancelled, and free its function: the future may live
        longer."""
        assert isinstance(call, _Call)
        with self._lock:
            self._waiting.remove(client, call)
            self._room.give_back(client, 1)
        del call.function
