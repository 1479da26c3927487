"""Threads that clients share call the functions of each in turns."""

import asyncio
import threading

import pytest

from serving.errors import ApiError
from serving.threads import FairThreads

FULL = "too many calls"


class Calls:
    """Calls in one thread, the first of which ends when `gate` is open."""

    def __init__(self, most_of_one=4):
        self.threads = FairThreads(1, most_of_one=most_of_one, name="test")
        self.begun, self.gate, self.order = threading.Event(), threading.Event(), []

    def add(self, client, name):
        def call():
            self.begun.set()
            self.gate.wait()
            self.order.append(name)
            return name

        return asyncio.ensure_future(self.threads.run(client, call, full=FULL))


def test_clients_take_turns_whatever_each_sends():
    async def scenario():
        calls = Calls()
        made = [calls.add("greedy", f"greedy {number}") for number in range(4)]
        await asyncio.sleep(0)
        made.append(calls.add("modest", "modest"))
        await asyncio.sleep(0)
        calls.gate.set()
        assert await asyncio.gather(*made) == [*(f"greedy {n}" for n in range(4)), "modest"]
        assert calls.order.index("modest") <= 2

    asyncio.run(scenario())


def test_a_client_that_has_too_many_is_refused_and_others_are_not():
    async def scenario():
        calls = Calls(most_of_one=2)
        made = [calls.add("greedy", number) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match=FULL) as caught:
            await calls.add("greedy", "refused")
        assert caught.value.status == 429
        made.append(calls.add("modest", "modest"))
        await asyncio.sleep(0)
        calls.gate.set()
        assert await asyncio.gather(*made) == [0, 1, "modest"]
        assert await calls.add("greedy", "later") == "later"

    asyncio.run(scenario())


def test_a_call_that_is_given_up_frees_its_room_and_is_not_made():
    async def scenario():
        calls = Calls(most_of_one=2)
        running, waiting = calls.add("a", "running"), calls.add("a", "waiting")
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0)
        last = calls.add("a", "last")
        await asyncio.sleep(0)
        calls.gate.set()
        assert await asyncio.gather(running, last) == ["running", "last"]
        assert calls.order == ["running", "last"]

    asyncio.run(scenario())


def test_errors_are_raised_and_what_waits_at_the_end_has_one():
    async def scenario():
        calls = Calls()
        with pytest.raises(ZeroDivisionError):
            await calls.threads.run("a", lambda: 1 // 0, full=FULL)
        running, waiting = calls.add("a", "running"), calls.add("a", "waiting")
        await asyncio.to_thread(calls.begun.wait)
        calls.threads.stop()
        calls.gate.set()
        for late in (waiting, calls.add("a", "late")):
            with pytest.raises(ApiError, match="stopping") as caught:
                await late
            assert caught.value.status == 503
        assert await running == "running"

    asyncio.run(scenario())
