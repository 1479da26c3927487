"""Requests become jobs beside the event loop, and those with schemas delay only each other."""

import asyncio
import threading

import pytest

from configs.schema.serve import Serve
from data.codecs.tokenizers import Tokenizer
from serving.errors import ApiError
from serving.forms.completions import CompletionForm
from serving.texts import MOST_GRAMMARS, TextWriter


class Worker:
    """A queue that has room."""

    def check_room(self, count: int, tokens: int) -> None:
        pass


class SlowWriter(TextWriter):
    """A writer whose schemas take until `may_end` is set."""

    def __init__(self):
        tokenizer = Tokenizer.characters(["abc"])
        super().__init__(None, None, Worker(), tokenizer, context=None, limits=Serve())
        self.may_end = threading.Event()

    def _prepare(self, prompts, form, param, options):
        if form.response_format is not None:
            self.may_end.wait()
        return [param]


def test_schemas_that_take_long_delay_only_each_other():
    writer = SlowWriter()
    plain = CompletionForm.of({"model": "m", "prompt": "a"})
    slow = CompletionForm.of({"model": "m", "response_format": {"type": "json_object"}})

    async def ask():
        waiting = [
            asyncio.ensure_future(writer.prepare([], slow, param="slow"))
            for _ in range(MOST_GRAMMARS)
        ]
        assert await writer.prepare([], plain, param="plain") == ["plain"]
        with pytest.raises(ApiError, match="too many schemas") as refused:
            await writer.prepare([], slow, param="slow")
        assert refused.value.status == 429 and not any(one.done() for one in waiting)
        writer.may_end.set()
        assert await asyncio.gather(*waiting) == [["slow"]] * MOST_GRAMMARS
        assert await writer.prepare([], slow, param="slow") == ["slow"]

    asyncio.run(ask())
