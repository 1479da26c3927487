"""Malformed, lying and hostile requests get the right status, and harm nobody."""

import pytest

from tests.serving.abuse import OPEN_CASES, TOKEN, TOKEN_CASES, Case
from tests.serving.servers import GOLDEN, ROOT, SMALL, serving
from tests.serving.sockets import RawClient, get

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")

INTERNALS = (b"Traceback", b".py", b"site-packages", str(ROOT).encode(), b" object at 0x")
"""What no answer to a client may contain."""

SHORT = SMALL | {
    "serve.header_seconds": "1",
    "serve.body_seconds": "1",
    "serve.keep_alive_seconds": "1",
    "serve.max_connections": "32",
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


@pytest.mark.parametrize("case", OPEN_CASES, ids=lambda case: case.name)
def test_a_hostile_request_gets_its_status(open_server, case):
    check(open_server, case)


@pytest.mark.parametrize("case", TOKEN_CASES, ids=lambda case: case.name)
def test_a_request_without_the_token_gets_nothing(token_server, case):
    check(token_server, case)
