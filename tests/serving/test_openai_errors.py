"""OpenAI's client gets the errors that it knows, and tries again where it should."""

import asyncio
import contextlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor, as_completed

import openai
import pytest

from tests.serving.servers import GOLDEN, SMALL, RunningServer, serving
from tests.serving.sockets import wait_until

TOKEN = "only-for-tests"
ENDLESS = {"max_tokens": 1 << 20, "logit_bias": {"5": 100}}
"""Parameters of an answer that is not complete before a test ends: it has one letter only."""

FIELDS = SMALL | {
    "serve.slots": "1",
    "serve.max_tokens": str(1 << 20),
    "serve.max_waiting_requests": "1",
    "serve.first_token_seconds": "240",
    "serve.answer_seconds": "240",
    "serve.unread_seconds": "240",
}
RUNNING = 2
"""Answers that the model of this server holds: one is written, one is at hand; one more waits."""


@pytest.fixture(scope="module")
def first_answer(tmp_path_factory):
    """A server that is easily full, and needs a token; and the answer to a request that a client
    sends while its programs are compiled."""
    log = tmp_path_factory.mktemp("server") / "log"
    settings = {"fields": FIELDS, "environment": {"TRIFORM_TOKEN": TOKEN}, "is_awaited": False}
    with serving(GOLDEN / "recurrence_text", log, **settings) as server:
        client = client_of(server, max_retries=60).completions.with_raw_response
        yield server, client.create(model=server.model, prompt="1 ", max_tokens=2)


@pytest.fixture
def server(first_answer):
    return first_answer[0]


def client_of(server: RunningServer, **options) -> openai.OpenAI:
    options = {"api_key": TOKEN, "max_retries": 0, "timeout": 120} | options
    return openai.OpenAI(base_url=f"{server.url}/v1", **options)


def ask(server: RunningServer, client: openai.OpenAI, **fields):
    fields = {"model": server.model, "prompt": "1 ", "max_tokens": 2} | fields
    return client.completions.create(**fields)


def gauge(server: RunningServer, name: str) -> float:
    status, body = server.request("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert status == 200
    return float(re.search(rf"^{re.escape(name)} (\S+)$", body.decode(), re.MULTILINE)[1])


def occupation(server: RunningServer) -> float:
    """Return how many answers are computed or wait."""
    names = ("triform_num_requests_running", "triform_num_requests_waiting")
    return sum(gauge(server, name) for name in names)


def count_refused(server: RunningServer) -> float:
    """Return how many completions were refused since the queue was full."""
    return gauge(server, 'triform_requests_total{route="/v1/completions",status="429"}')


@contextlib.contextmanager
def full(server: RunningServer):
    """Fill the slot and the queue with answers that do not end, until the block does."""
    client, begun = client_of(server), []
    with ThreadPoolExecutor() as threads:
        try:
            for number in range(RUNNING + 1):
                begun.append(threads.submit(ask, server, client, stream=True, **ENDLESS))
                wait_until(lambda number=number: occupation(server) == number + 1)
            wait_until(lambda: gauge(server, "triform_num_requests_waiting") == RUNNING)
            yield
        finally:
            for answer in as_completed(begun):  # The next begins when one has left.
                answer.result().close()
    wait_until(lambda: gauge(server, "triform_num_requests_running") == 0)


def test_a_server_that_is_not_ready_is_asked_again(first_answer):
    _, answer = first_answer
    assert answer.retries_taken >= 1 and answer.parse().choices


def test_a_wrong_parameter(server):
    with pytest.raises(openai.BadRequestError) as error:
        ask(server, client_of(server), temperature=3)
    told = error.value
    assert (told.status_code, told.param, told.code) == (400, "temperature", "invalid_value")
    assert told.type == "invalid_request_error" and "less than or equal to 2" in told.message
    assert told.request_id.startswith("req_") and told.body["request_id"] == told.request_id


@pytest.mark.parametrize("key", ["wrong", TOKEN + "x", TOKEN[:-1]])
def test_a_wrong_token(server, key):
    with pytest.raises(openai.AuthenticationError) as error:
        ask(server, client_of(server, api_key=key))
    assert error.value.code == "invalid_api_key"
    assert ask(server, client_of(server)).choices


def test_another_model(server):
    for call in (
        lambda: ask(server, client_of(server), model="gpt-4"),
        lambda: client_of(server).models.retrieve("gpt-4"),
    ):
        with pytest.raises(openai.NotFoundError) as error:
            call()
        assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_routes_that_this_model_has_not(server):
    client = client_of(server)
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model=server.model, messages=[])
    assert "trained on conversations" in error.value.message
    with pytest.raises(openai.NotFoundError) as error:
        client.audio.transcriptions.create(model=server.model, file=("a.wav", b"RIFF"))
    assert "which is for speech recognisers" in error.value.message
    with pytest.raises(openai.NotFoundError) as error:
        client.moderations.create(input="1")
    assert "there is no such route" in error.value.message


def test_the_page_of_another_origin(server):
    with pytest.raises(openai.PermissionDeniedError):
        ask(server, client_of(server), extra_headers={"Origin": "http://elsewhere.example"})


def test_a_body_that_is_too_large(server):
    with pytest.raises(openai.APIStatusError) as error:
        ask(server, client_of(server), prompt="1" * (2 << 20))
    assert error.value.status_code == 413


def test_no_server():
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_a_full_queue_and_another_try(server):
    with ThreadPoolExecutor() as threads:
        with full(server):
            with pytest.raises(openai.RateLimitError) as error:
                ask(server, client_of(server))
            assert error.value.code == "rate_limit_exceeded"
            assert int(error.value.response.headers["retry-after"]) >= 1
            refused = count_refused(server)
            patient = client_of(server, max_retries=20).completions.with_raw_response
            later = threads.submit(patient.create, model=server.model, prompt="1 ", max_tokens=2)
            wait_until(lambda: count_refused(server) > refused)
        answer = later.result(timeout=120)
        assert answer.retries_taken >= 1 and answer.parse().choices


def test_no_answer_in_time(server):
    with pytest.raises(openai.APITimeoutError):
        ask(server, client_of(server, timeout=0.5), **ENDLESS)
    wait_until(lambda: gauge(server, "triform_num_requests_running") == 0)


def test_a_cancelled_answer_frees_its_slot(server):
    def is_running() -> bool:
        return gauge(server, "triform_num_requests_running") > 0

    async def cancel(is_streamed: bool) -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=TOKEN, max_retries=0
        ) as client:
            fields = {"model": server.model, "prompt": "1 "} | ENDLESS
            if is_streamed:
                async with await client.completions.create(**fields, stream=True) as stream:
                    await anext(aiter(stream))
            else:
                task = asyncio.create_task(client.completions.create(**fields))
                await asyncio.to_thread(wait_until, is_running)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

    for is_streamed in (False, True):
        asyncio.run(cancel(is_streamed))
        wait_until(lambda: gauge(server, "triform_num_requests_running") == 0)
