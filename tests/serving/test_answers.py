"""Answers keep the deadlines of their request, which count from its arrival."""

import asyncio
from types import SimpleNamespace

import pytest

from configs.schema.serve import Serve
from serving.answers import Answers, Arrival, Event
from serving.errors import ApiError
from serving.guard import Guard


class Worker:
    """A queue in which nothing begins."""

    def add(self, works): ...


def error_of(*, header: float, body: float, begins: bool) -> ApiError:
    """Return the error of an answer to a request that came some seconds ago."""

    async def ask():
        now = asyncio.get_running_loop().time()
        arrival = Arrival(header=now - header, body=now - body)
        answers = Answers(
            Worker(), None, [None], client="a", tokens=[1], limits=Serve(), arrival=arrival
        )
        answers.open()
        if begins:
            answers._started(None)
        await answers.wait()

    with pytest.raises(ApiError) as caught:
        asyncio.run(ask())
    return caught.value


def test_what_was_done_before_the_queue_counts_for_the_deadlines():
    limits = Serve()
    error = error_of(header=400, body=limits.first_token_seconds, begins=False)
    assert error.status == 503 and "not begun within 60 seconds" in error.message
    error = error_of(header=limits.answer_seconds, body=50, begins=True)
    assert error.status == 503 and "not complete within 600 seconds" in error.message


class Service:
    """What the guard needs of a service."""

    in_flight, is_draining = 0, False


class Rules:
    """Rules that let every request through."""

    def check(self, scope):
        return ""


def test_a_request_knows_when_its_header_and_its_body_came():
    found = []

    async def app(scope, receive, send):
        arrival = scope["state"]["arrival"]
        assert arrival.header == arrival.body
        for _ in range(2):
            before = arrival.body
            await receive()
            found.append(arrival.body > before)
        await receive()
        found.append(arrival.body - arrival.header)

    messages = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive():
        await asyncio.sleep(0.001)
        return messages.pop(0)

    guard = Guard(app, service=Service(), rules=Rules())
    guard._finish = lambda *_: None
    asyncio.run(guard({"type": "http", "path": "/"}, receive, None))
    assert found[:2] == [True, True] and found[2] > 0


def test_an_answer_that_is_read_slowly_ends_at_its_deadline():
    """Also if its events are there: reading one does not wait."""

    async def read():
        worker = SimpleNamespace(add=lambda works: None, cancel=lambda work: None)
        limits = Serve(answer_seconds=0.1)
        now = asyncio.get_running_loop().time()
        options = {"limits": limits, "arrival": Arrival(header=now, body=now)}
        answers = Answers(worker, None, [object()], client="", tokens=[1], **options)
        answers.open()
        for _ in range(100):
            answers._put(Event(0, "text"))
        count = 0
        with pytest.raises(ApiError) as caught:
            async for _ in answers:
                count += 1
                await asyncio.sleep(0.02)
        assert caught.value.status == 503 and "0.1 seconds" in caught.value.message
        return count

    assert asyncio.run(read()) < 100
