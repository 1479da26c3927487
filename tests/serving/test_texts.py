"""Requests become jobs beside the event loop, and those with schemas delay only each other."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from configs.schema.serve import Serve
from data.codecs.tokenizers import Tokenizer
from inference.engine.job import Job
from inference.requests import Request, RequestError
from serving.answers import Arrival, Event
from serving.errors import ApiError
from serving.forms.answers import State
from serving.forms.completions import CompletionForm
from serving.metrics import Metrics
from serving.routes.writing import AnswerBody, write
from serving.service import Service
from serving.texts import MOST_GRAMMARS, Piece, Prompt, TextWriter, pieces

TOKENIZER = Tokenizer.characters(["abc"])


class Worker:
    """A queue that has room."""

    def check_room(self, count: int, tokens: int) -> None:
        pass


class SlowWriter(TextWriter):
    """A writer whose schemas take until `may_end` is set."""

    def __init__(self):
        super().__init__(None, None, Worker(), TOKENIZER, context=None, limits=Serve())
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
            asyncio.ensure_future(writer.prepare([], slow, client="a", param="slow"))
            for _ in range(MOST_GRAMMARS)
        ]
        assert await writer.prepare([], plain, client="a", param="plain") == ["plain"]
        with pytest.raises(ApiError, match="too many schemas") as refused:
            await writer.prepare([], slow, client="a", param="slow")
        other = asyncio.ensure_future(writer.prepare([], slow, client="b", param="slow"))
        await asyncio.sleep(0)
        assert refused.value.status == 429
        assert not any(one.done() for one in (*waiting, other))
        writer.may_end.set()
        assert await asyncio.gather(*waiting) == [["slow"]] * MOST_GRAMMARS
        assert await other == ["slow"]
        assert await writer.prepare([], slow, client="a", param="slow") == ["slow"]

    asyncio.run(ask())
    threads = [*writer._grammar_thread._executor._threads]
    writer.stop()  # Else the end of the process waits for the thread.
    for thread in threads:
        thread.join(60)
    assert threads and not any(thread.is_alive() for thread in threads)


class Engine:
    """Makes jobs, which nobody does."""

    text_room = 5

    def prepare(self, request, *, name):
        return Job(request, TOKENIZER, None, None)


def test_the_texts_of_a_request_share_the_part_of_a_prediction_that_is_looked_up():
    writer = TextWriter(Engine(), None, Worker(), TOKENIZER, context=None, limits=Serve())
    predicted = {"type": "content", "content": [{"type": "text", "text": "abc"}] * 9}
    form = CompletionForm.of({"model": "m", "n": 3, "prediction": predicted})
    prompts = [Prompt("a", (1,), 0), Prompt("b", (2,), 0)]
    jobs = asyncio.run(writer.prepare(prompts, form, client="a", param="prompt", max_tokens=9))
    assert len(jobs) == 6 and all(job.prediction is jobs[0].prediction for job in jobs)
    assert jobs[0].prediction == (*TOKENIZER.encode("abcab").tolist(),)


def test_a_prediction_has_a_limit():
    most = Serve().max_input_characters
    for content in ("a" * (most + 1), [{"type": "text", "text": "a" * most}] * 2):
        predicted = {"type": "content", "content": content}
        with pytest.raises(ApiError, match=f"prediction is at most {most} char") as refused:
            CompletionForm.of({"model": "m", "prediction": predicted}).check(Serve())
        assert refused.value.param == "prediction"


def done_job(**fields) -> Job:
    job = Job(Request((1,), **fields), TOKENIZER, None, None)
    job.end()
    return job


def test_a_text_that_failed_is_an_error_and_no_last_part():
    job = Job(Request((1,)), TOKENIZER, None, None)
    parts = []
    job.on_text = lambda text, completion: parts.append(Piece(0, text, (), completion))
    job.tell("a")
    job.fail(RequestError("grammar", "can't be followed"))
    assert [part.completion and part.completion.finish for part in parts] == [None, "cancelled"]
    told = []

    async def events():
        for part in parts:
            yield Event(0, part)

    async def read():
        async for piece in pieces(events(), [job]):
            told.append(piece)

    with pytest.raises(ApiError, match="grammar can't be followed"):
        asyncio.run(read())
    assert told == parts[:1]


class Body(AnswerBody):
    """Keeps the threads in which an answer is made."""

    def __init__(self):
        self.threads = []

    def whole(self, jobs, texts, used):
        self.threads.append(threading.current_thread())
        return State(status="whole")

    def chunks(self, piece):
        self.threads.append(threading.current_thread())
        return [{"text": piece.text}]

    def usage_chunk(self, used):
        return {"total": used.total_tokens}


class DoneAnswers:
    """The answer to one job that is done."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    async def wait(self) -> None: ...

    async def __aiter__(self):
        yield Event(0, Piece(0, "abc", (), None))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_answers_with_many_log_probabilities_are_made_beside_the_event_loop(is_streamed):
    body, sent, metrics = Body(), [], Metrics()

    async def send(message):
        sent.append(message.get("body", b""))

    async def answer():
        service = SimpleNamespace(
            client_of=lambda request: "", metrics=metrics, log_content=lambda *_: None
        )
        texts = SimpleNamespace(answers=lambda jobs, **_: DoneAnswers())
        never = asyncio.get_running_loop().create_future()
        came = asyncio.get_running_loop().time() - 100
        state = SimpleNamespace(request_id="request", arrival=Arrival(header=came, body=came))
        request = SimpleNamespace(receive=lambda: never, state=state)
        response = await write(
            service,
            texts,
            request,
            [done_job(logprobs=True)],
            body,
            texts_per_prompt=1,
            is_streamed=is_streamed,
            includes_usage=is_streamed,
        )
        await response({"type": "http"}, request.receive, send)

    asyncio.run(answer())
    assert len(body.threads) == 1 and body.threads[0] is not threading.current_thread()
    if is_streamed:
        events = [json.loads(one.removeprefix(b"data: ")) for one in sent if b"{" in one]
        assert events == [{"text": "abc", "usage": None}, {"total": 1}]
        name = "triform_time_to_first_token_seconds_sum"  # from the request's header on
        assert metrics.registry.get_sample_value(name) >= 100
    else:
        assert json.loads(b"".join(sent)) == {"status": "whole"}


def test_what_is_not_logged_is_not_made():
    def content():
        raise AssertionError

    Service.log_content(SimpleNamespace(limits=Serve()), None, "prompt", content)
