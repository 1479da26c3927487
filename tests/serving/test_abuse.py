"""Malformed, lying and hostile requests get the right status, and harm nobody."""

import contextlib
import json
import re

import pytest

from tests.serving.abuse import (
    COMPLETIONS,
    MODEL,
    OPEN_CASES,
    TOKEN,
    TOKEN_CASES,
    Case,
    long_stream,
)
from tests.serving.servers import GOLDEN, ROOT, SMALL, serving
from tests.serving.sockets import RawClient, exchange, get, post, wait_until

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")

INTERNALS = (b"Traceback", b".py", b"site-packages", str(ROOT).encode(), b" object at 0x")
"""What no answer to a client may contain."""

MOST_TOKENS = 1_000_000
"""A text of so many is not complete before a test ends."""

SHORT = SMALL | {
    "serve.header_seconds": "4",
    "serve.body_seconds": "4",
    "serve.keep_alive_seconds": "4",
    "serve.max_connections": "32",
    "serve.max_tokens": str(MOST_TOKENS),
}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    log = tmp_path_factory.mktemp("open") / "log"
    with serving(GOLDEN / "recurrence_text", log, fields=SHORT) as server:
        yield server


@pytest.fixture(scope="module")
def token_server(tmp_path_factory):
    log = tmp_path_factory.mktemp("token") / "log"
    environment = {"TRIFORM_TOKEN": TOKEN}
    workdir = GOLDEN / "recurrence_text"
    with serving(workdir, log, fields=SHORT, environment=environment) as server:
        yield server


def check(server, case: Case) -> None:
    request = case.request.replace(b"PORT", b"%d" % server.port)
    with RawClient(server.port) as client:
        client.send(request)
        answer = client.answer(method=case.method)
        assert answer is not None, "closed without an answer"
        assert answer.status in case.statuses, (answer.status, answer.body[:500])
        if answer.status >= 400 and case.method != "HEAD":
            error = answer.error
            assert {"message", "type", "param", "code"} <= error.keys()
            assert len(answer.body) < 3000
            assert not [word for word in INTERNALS if word in answer.body]
        if case.is_more:
            assert client.answer().closes
        elif answer.closes:
            assert client.is_closed()
        else:
            client.send(get("/health"))
            assert client.answer().status == 200


def number_of(what: str, port: int) -> float:
    """Return how many answers are "running" or "waiting", from the server's metrics."""
    body = exchange(port, get("/metrics")).body.decode()
    return float(re.search(rf"^triform_num_requests_{what} (\S+)", body, re.MULTILINE)[1])


@pytest.mark.parametrize("case", OPEN_CASES, ids=lambda case: case.name)
def test_a_hostile_request_gets_its_status(open_server, case):
    check(open_server, case)


@pytest.mark.parametrize("case", TOKEN_CASES, ids=lambda case: case.name)
def test_a_request_without_the_token_gets_nothing(token_server, case):
    check(token_server, case)


@pytest.mark.parametrize("authorization", [None, "Bearer wrong"], ids=["missing", "wrong"])
def test_no_route_answers_without_the_token(token_server, authorization):
    headers = [f"Authorization: {authorization}"] if authorization else []
    with RawClient(token_server.port) as client:
        client.send(get("/openapi.json", f"Authorization: Bearer {TOKEN}"))
        paths = json.loads(client.answer().body)["paths"]
        assert "/v1/completions" in paths
        public = set()
        for path, operations in paths.items():
            for method in METHODS:
                client.send(get(path.replace("{model}", MODEL), *headers, method=method))
                status = client.answer(method=method).status
                operation = operations.get("get" if method == "HEAD" else method.lower())
                if operation is None:
                    assert status == 405, (method, path)
                elif operation["security"]:
                    assert status == 401, (method, path)
                else:
                    public.add(path)
                    assert status == 200, (method, path)
    assert {"/health", "/ready"} <= public <= {"/", "/health", "/ready"}


def test_a_slow_header_and_a_slow_body_have_deadlines(open_server):
    with RawClient(open_server.port) as header, RawClient(open_server.port) as body:
        header.send(b"GET /health HTTP/1.1\r\nHost: loc")
        body.send(post(COMPLETIONS, b"{", length=100))
        for client in (header, body):
            answer = client.answer()
            assert answer.status == 408 and answer.closes and answer.error["message"]
            assert client.is_closed()


def test_a_header_that_trickles_in_has_the_same_deadline(open_server):
    with RawClient(open_server.port) as client:
        client.socket.settimeout(0.05)
        client.send(b"GET /health HTTP/1.1\r\n")
        sent = 0

        def is_answered() -> bool:
            nonlocal sent
            client.send(b"X-A: b\r\n")
            sent += 1
            try:
                return b"HTTP/1.1 408" in client.socket.recv(4096)
            except TimeoutError:
                return False

        wait_until(is_answered)
        assert sent > 1


def test_silent_connections_are_closed(open_server):
    with RawClient(open_server.port) as new, RawClient(open_server.port) as used:
        used.send(get("/health"))
        assert used.answer().status == 200
        assert new.is_closed() and used.is_closed()


def test_a_body_that_nobody_reads_ends_the_connection(open_server):
    with RawClient(open_server.port) as client:
        client.send(post("/health", b"x", length=10_000_000))
        assert client.answer().status == 405
        client.socket.settimeout(0.05)

        def is_closed() -> bool:
            client.send(b"x")
            try:
                return client.is_closed()
            except TimeoutError:
                return False

        wait_until(is_closed)


def test_the_rest_of_a_refused_body_does_not_end_the_connection(open_server):
    with RawClient(open_server.port) as client:
        client.send(post("/health", b"x" * 500, length=1000))
        assert client.answer().status == 405
        client.send(b"x" * 500 + get("/health"))
        assert client.answer().status == 200


def test_requests_sent_at_once_are_answered_in_order(open_server):
    with RawClient(open_server.port) as client:
        client.send(get("/health") + get("/nothing") + get("/ready", "Connection: close"))
        seen = b"".join(iter(lambda: client.socket.recv(1 << 16), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", seen) == [b"200", b"404", b"200"]


def test_idle_connections_make_room_but_a_stream_does_not(open_server):
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(RawClient(open_server.port))
        stream.send(post(COMPLETIONS, long_stream(2000)))
        wait_until(lambda: b"data:" in stream.socket.recv(64))
        idle = [stack.enter_context(RawClient(open_server.port)) for _ in range(100)]
        assert exchange(open_server.port, get("/health")).status == 200
        assert idle[0].is_closed()
        idle[-1].send(get("/health"))
        assert idle[-1].answer().status == 200
        rest = b"".join(iter(lambda: stream.socket.recv(1 << 16), b""))
        assert b"data: [DONE]\n\n" in rest


def test_beyond_the_cap_of_busy_connections_a_new_one_is_told_to_try_again(open_server):
    most = int(SHORT["serve.max_connections"])
    busy = post(COMPLETIONS, long_stream(MOST_TOKENS, stream=False))
    with contextlib.ExitStack() as stack:
        for _ in range(most - 1):
            stack.enter_context(RawClient(open_server.port)).send(busy)
        names = ("running", "waiting")
        wait_until(lambda: sum(number_of(one, open_server.port) for one in names) == most - 1)
        last = stack.enter_context(RawClient(open_server.port))
        last.send(get("/health"))  # An open connection is read before a new one is accepted.
        assert last.answer().status == 200
        last.send(busy)
        new = stack.enter_context(RawClient(open_server.port))
        answer = new.answer()  # It comes before anything is asked.
        assert answer.status == 503 and answer.closes
    wait_until(lambda: number_of("running", open_server.port) == 0)
    assert number_of("waiting", open_server.port) == 0
