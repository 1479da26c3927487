"""A server under attack answers all others, keeps its memory and its slots, and stops in time."""

import contextlib
import json
import re
import resource
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.abuse import BOMBS, COMPLETIONS, OPEN_CASES, long_stream
from tests.serving.servers import GOLDEN, SMALL, serving
from tests.serving.sockets import SECONDS, RawClient, exchange, get, post, wait_until
from tests.serving.test_abuse import check, number_of

WORKDIR = GOLDEN / "recurrence_text"

SLOTS, CONNECTIONS, SLOW, LEAVING = 4, 10_000, 200, 500

FIELDS = SMALL | {
    "serve.slots": str(SLOTS),
    "serve.header_seconds": "5",
    "serve.body_seconds": "5",
    "serve.unread_seconds": "5",
    "serve.max_tokens": "1000000",
    "serve.max_connections": "512",
}

LONGEST_HEALTH_SECONDS = 20.0
"""A bound for a busy machine with few cores; the largest time is printed."""


class Pulse:
    """Asks for /health all the time, each time over a new connection. seconds: how long each answer
    took; failures: what came instead of an answer."""

    def __init__(self, port: int):
        self.seconds: list[float] = []
        self.failures: list[str] = []
        self._port, self._is_over = port, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.05):
            began = time.perf_counter()
            try:
                answer = exchange(self._port, get("/health"))
                if answer is None or answer.status != 200:
                    self.failures.append(str(answer))
            except OSError as error:
                self.failures.append(repr(error))
            self.seconds.append(time.perf_counter() - began)


def slow_requests(port: int, beginning: bytes, drop: bytes) -> None:
    """Send many requests, of each a byte from time to time, until the server has ended them all."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(port)) for _ in range(SLOW)]
        for client in clients:
            client.send(beginning)
            client.socket.settimeout(0.001)
        seen = dict.fromkeys(clients, b"")

        def are_ended() -> bool:
            for client in [one for one in clients if one in seen]:
                client.send(drop)
                try:
                    part = client.socket.recv(4096)
                except TimeoutError:
                    continue
                except ConnectionResetError:
                    part = b""
                seen[client] += part
                if not part:
                    assert seen.pop(client).startswith(b"HTTP/1.1 408")
            return not seen

        wait_until(are_ended)


def thousands_of_connections(port: int) -> None:
    """Open thousands of connections that ask for nothing, and see that most are closed."""
    opened = []
    try:
        for _ in range(CONNECTIONS):
            opened.append(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
        assert exchange(port, get("/health")).status == 200
        assert opened[0].recv(1) == b""
        assert exchange(port, get("/v1/models")).status == 200
    finally:
        for one in opened:
            one.close()


def huge_bodies(port: int) -> None:
    """Send bodies far over the limit, told of or not."""
    for _ in range(10):
        with RawClient(port) as client:
            client.send(post(COMPLETIONS, b"", f"Content-Length: {10**12}"))
            assert client.answer().status == 413
            client.send(b"x" * 10_000_000)
        with RawClient(port) as client:
            client.send(post(COMPLETIONS, b"", "Transfer-Encoding: chunked"))
            client.send(b"%x\r\n%s\r\n" % (1 << 20, b" " * (1 << 20)) * 20)
            answer = client.answer()
            assert answer is None or answer.status == 413


def leave_streams(port: int) -> None:
    """Ask for long streams, and leave each after its first bytes, half of them with a reset."""

    def leave(number: int) -> None:
        with RawClient(port) as client:
            client.send(post(COMPLETIONS, long_stream(100_000)))
            assert client.socket.recv(64).startswith(b"HTTP/1.1 200")
            if number % 2:
                reset = struct.pack("ii", 1, 0)
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(leave, range(LEAVING)))


def bombs(server) -> None:
    """Send grammars that grow, several at a time."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda case: check(server, case), BOMBS))


def one_round(server) -> None:
    """Do everything once, and wait until the server has nothing to do."""
    port = server.port
    for case in OPEN_CASES:
        check(server, case)
    slow_requests(port, b"GET /health HTTP/1.1\r\n", b"X-A: b\r\n")
    slow_requests(port, post(COMPLETIONS, b"{", length=100_000), b" ")
    huge_bodies(port)
    bombs(server)
    leave_streams(port)
    thousands_of_connections(port)
    wait_until(lambda: number_of("running", port) == number_of("waiting", port) == 0)


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.fixture
def many_files():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 500
    if before[1] != resource.RLIM_INFINITY and before[1] < needed:
        pytest.skip(f"{needed} files can't be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(needed, before[0]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def answer_of(server) -> str:
    fields = {"model": server.model, "prompt": "0 times 0 ", "seed": 7, "max_tokens": 20}
    return server.ask(COMPLETIONS, fields)["choices"][0]["text"]


def test_an_attack_harms_nobody(tmp_path, many_files):
    with serving(WORKDIR, tmp_path / "log", fields=FIELDS) as server:
        right = answer_of(server)
        with Pulse(server.port) as pulse:
            one_round(server)
            first = resident_bytes(server.process.pid)
            one_round(server)
            second = resident_bytes(server.process.pid)
        print(
            f"/health took {max(pulse.seconds):.3f} s at most in {len(pulse.seconds)} requests; "
            f"resident after a round {first >> 20} MB, after the second {second >> 20} MB"
        )
        assert not pulse.failures
        assert max(pulse.seconds) < LONGEST_HEALTH_SECONDS
        assert second < 1.05 * first
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(RawClient(server.port)) for _ in range(SLOTS)]
            for stream in streams:
                stream.send(post(COMPLETIONS, long_stream(1_000_000)))
            for stream in streams:  # All slots write at once: each text is far from its end.
                wait_until(lambda stream=stream: b"data:" in stream.socket.recv(1 << 16))
            assert number_of("running", server.port) == SLOTS
        wait_until(lambda: number_of("running", server.port) == 0)
        assert answer_of(server) == right
        assert not [line for line in server.lines() if line["event"] == "fault"]


def test_a_client_that_never_reads_is_left_and_its_slot_is_free(tmp_path):
    with serving(WORKDIR, tmp_path / "log", fields=FIELDS) as server:
        with RawClient(server.port) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(post(COMPLETIONS, long_stream(1_000_000, logprobs=5)))
            wait_until(lambda: number_of("running", server.port) == 1)
            wait_until(lambda: number_of("running", server.port) == 0)
            body = exchange(server.port, get("/metrics")).body.decode()
        completed = set(re.findall(r'route="/v1/completions",status="(\d+)"', body))
        assert completed == {"499"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_server_that_compiles_ends_at_once(tmp_path, number):
    fields = SMALL | {"serve.slots": "16"}  # compiles for longer
    with serving(WORKDIR, tmp_path / "log", fields=fields, is_awaited=False) as server:
        assert exchange(server.port, get("/ready")).status == 503
        server.process.send_signal(number)
        assert server.process.wait(timeout=SECONDS) == 0
        events = [line["event"] for line in server.lines()]
    assert events[-1] == "stopped" and "ready" not in events


@pytest.mark.parametrize("signals", [1, 2])
def test_answers_beyond_the_time_to_drain_end_with_an_error(tmp_path, signals):
    """A second signal ends it at once, a first one after the limit, even if a client never reads,
    or has half a request open."""
    fields = FIELDS | {"serve.drain_seconds": "2" if signals == 1 else "80000"}
    fields |= {"serve.unread_seconds": "80000", "serve.body_seconds": "80000"}
    with (
        serving(WORKDIR, tmp_path / "log", fields=fields) as server,
        RawClient(server.port) as reading,
        RawClient(server.port) as silent,
        RawClient(server.port) as sending,
        RawClient(server.port) as waiting,
    ):
        for client in (reading, silent):
            client.send(post(COMPLETIONS, long_stream(1_000_000, logprobs=5)))
            wait_until(lambda client=client: b"data:" in client.socket.recv(64))
        sending.send(post(COMPLETIONS, b"{", length=1000))
        waiting.send(post(COMPLETIONS, long_stream(1_000_000, stream=False)))
        wait_until(lambda: number_of("running", server.port) == 3)
        server.process.send_signal(signal.SIGTERM)
        if signals == 2:
            wait_until(lambda: exchange(server.port, get("/ready")).status == 503)
            server.process.send_signal(signal.SIGTERM)
        rest = b"".join(iter(lambda: reading.socket.recv(1 << 16), b""))
        last = [event for event in re.findall(rb"data: (.*)", rest) if event][-1]
        assert json.loads(last)["error"]["code"] == "service_unavailable"
        assert waiting.answer().status == 503
        assert server.process.wait(timeout=SECONDS) == 0
