"""At SIGTERM the server finishes what it has accepted, tells others to try again, and ends."""

import signal

from tests.serving.abuse import long_stream
from tests.serving.servers import GOLDEN, SMALL, serving
from tests.serving.sockets import SECONDS, RawClient, exchange, get, post, wait_until

WORKDIR = GOLDEN / "recurrence_text"


def test_what_was_accepted_is_finished_and_the_next_is_told_to_try_again(tmp_path):
    fields = SMALL | {"serve.max_tokens": "60000", "serve.drain_seconds": "120"}
    with (
        serving(WORKDIR, tmp_path / "log", fields=fields) as server,
        RawClient(server.port) as client,
    ):
        asked = long_stream(60_000)
        client.send(post("/v1/completions", asked))
        wait_until(lambda: b"data:" in client.socket.recv(4096))
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: exchange(server.port, get("/ready")).status == 503)
        assert exchange(server.port, get("/health")).status == 200
        refused = exchange(server.port, post("/v1/completions", asked))
        assert refused.status == 503 and refused.closes and int(refused.headers["retry-after"])
        assert refused.error["code"] == "service_unavailable"
        rest = b"".join(iter(lambda: client.socket.recv(1 << 16), b""))
        assert rest.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert b'"finish_reason":"length"' in rest
        assert server.process.wait(timeout=SECONDS) == 0
