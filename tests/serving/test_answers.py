"""The answers to a request end within their deadlines."""

import asyncio
from types import SimpleNamespace

import pytest

from configs.schema.serve import Serve
from serving.answers import Answers, Event
from serving.errors import ApiError


def test_an_answer_that_is_read_slowly_ends_at_its_deadline():
    """Also if its events are there: reading one does not wait."""

    async def read():
        worker = SimpleNamespace(add=lambda works: None, cancel=lambda work: None)
        limits = Serve(answer_seconds=0.1)
        answers = Answers(worker, None, [object()], client="", tokens=[1], limits=limits)
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
