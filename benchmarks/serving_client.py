"""An HTTP client on plain sockets, for `serving.py`. It runs in its own process, and measures its
CPU time.

A stream is a sequence of requests; each one is sent when the previous one is answered.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

EVENT = b"data: "
DONE = b"[DONE]"
LONGEST_EVENT = 4096
OPEN_SECONDS, ANSWER_SECONDS = 10.0, 600.0
RETRY_SECONDS = 0.25
"""Seconds that a stream waits after a refusal. This is shorter than the server's Retry-After, to
increase the load."""


@dataclass(frozen=True)
class Ask:
    """A request.

    kind: the name of this kind of request in tables.
    method, content_type: values other than the defaults make a request that the server must refuse.
    expected: the HTTP status that the answer must have.
    leaves: whether the client closes the connection after the first event.
    """

    kind: str
    path: str
    body: bytes
    method: str = "POST"
    content_type: str = "application/json"
    expected: int = 200
    leaves: bool = False

    @classmethod
    def json(cls, kind: str, path: str, content: Any, **fields: Any) -> "Ask":
        """Return a request with a JSON body."""
        return cls(kind, path, json.dumps(content).encode(), **fields)

    def bytes(self, token: str = "") -> bytes:
        """Return the request as it is sent. token: the client's access token; empty for none."""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
        head += f"Authorization: Bearer {token}\r\n" if token else ""
        return head.encode() + b"\r\n" + self.body


@dataclass
class Answer:
    """The answer to a request.

    first: seconds until the first byte of the body, or the first event.
    seconds: seconds until the end of the answer.
    status: the HTTP status; 0 if the connection ended before it arrived.
    is_complete: whether the body is as long as announced, or ends with `[DONE]`.
    says_retry: whether a refusal, or the error event that ended it, tells the client to try again.
    tokens: the number of generated tokens that `usage` reports.
    """

    ask: Ask
    sent_at: float
    status: int = 0
    first: float = 0.0
    seconds: float = 0.0
    is_complete: bool = False
    says_retry: bool = False
    tokens: int = 0
    error: str = ""

    @property
    def outcome(self) -> str:
        """Return the outcome of the request: answered, left, refused (429), retry, or failed."""
        if self.ask.leaves and self.status == 200 and self.first:
            return "left"
        if self.status == 429 and self.says_retry:
            return "refused"
        if self.status == self.ask.expected and self.is_complete:
            return "answered"
        return "retry" if self.says_retry else "failed"

    def __str__(self) -> str:
        problem = "wrong status" if self.is_complete else "not complete"
        return f"{self.ask.kind}: status {self.status}, {self.error or problem}"


@dataclass
class Told:
    """The answers that a client got in a run, and the duration and the client's CPU time in
    seconds."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    def outcomes(self) -> Counter[str]:
        """Return the number of requests with each outcome."""
        return Counter(answer.outcome for answer in self.answers)


class Connection:
    """A connection to the server, opened when it is needed. Not for pipelining."""

    def __init__(self, port: int, token: str = ""):
        self._port, self._token = port, token
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def exchange(self, ask: Ask) -> Answer:
        """Send a request and read its answer. If this fails, the answer's `error` says why. Raises
        `ConnectionRefusedError` if no server listens on the port."""
        answer = Answer(ask, time.monotonic())
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                reader, writer = await self._open()
                answer.sent_at = time.monotonic()
                writer.write(ask.bytes(self._token))
                await self._read(reader, answer)
        except ConnectionRefusedError:
            raise
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError.
            answer.error = f"{type(error).__name__}: {error}"
        answer.seconds = time.monotonic() - answer.sent_at
        if answer.error or ask.leaves:
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection at once."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None or self._reader.at_eof():
            self.close()
            async with asyncio.timeout(OPEN_SECONDS):
                opened = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22)
            self._reader, self._writer = opened
        return self._reader, self._writer

    async def _read(self, reader: asyncio.StreamReader, answer: Answer) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
        answer.status = int(first.split(b" ")[1])
        pairs = (line.partition(b":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        answer.says_retry = b"retry-after" in headers
        if b"content-length" in headers:
            body = await reader.readexactly(int(headers[b"content-length"]))
            answer.first = time.monotonic() - answer.sent_at
            answer.is_complete = True
            answer.tokens = _tokens(body) if answer.status == 200 else 0
        else:
            await self._read_events(reader, answer)
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()

    async def _read_events(self, reader: asyncio.StreamReader, answer: Answer) -> None:
        tail = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            tail = tail[-LONGEST_EVENT:] + (await reader.readexactly(size + 2))[:-2]
            if not answer.first:
                answer.first = time.monotonic() - answer.sent_at
                if answer.ask.leaves:
                    return
        await reader.readexactly(2)
        *_, before, last = [b"", *filter(None, tail.split(b"\n\n"))]
        if last == EVENT + DONE:
            answer.is_complete, answer.tokens = True, _tokens(before.removeprefix(EVENT))
        elif last.startswith(EVENT + b'{"error"'):
            error = json.loads(last.removeprefix(EVENT))["error"]
            answer.says_retry = error["code"] == "service_unavailable"
            answer.error = error["message"]


def _tokens(body: bytes) -> int:
    if body[:1] != b"{":
        return 0
    return (json.loads(body).get("usage") or {}).get("completion_tokens", 0)


# ---- Runs, each in a process of its own.


def run_streams(port: int, streams: Sequence[Sequence[Ask]]) -> Told:
    """Send the requests of each stream over a connection of its own."""

    async def stream(asks: Sequence[Ask], told: Told) -> None:
        connection = Connection(port)
        for ask in asks:
            told.answers.append(await connection.exchange(ask))
        connection.close()

    async def run(told: Told) -> None:
        await asyncio.gather(*(stream(asks, told) for asks in streams))

    return _measured(run)


def run_clients(
    port: int,
    asks: Sequence[Ask],
    clients: Sequence[tuple[str, int]],
    *,
    seconds: float,
    arrivals: Mapping[str, float] = MappingProxyType({}),
    is_kept_open: bool = True,
    seed: int = 0,
) -> list[Told]:
    """Send requests, chosen at random from `asks`, from several clients at the same time. Stops
    after `seconds`, or when no server listens on the port. Returns the answers of each client.

    clients: for each client, its access token and its number of streams.

    arrivals: for each further client, its access token and the mean number of requests that it
        sends per second, as in `run_arrivals`.

    is_kept_open: whether a stream sends all its requests over one connection.

    A refused request is sent again after `RETRY_SECONDS`. Its time counts from the first attempt.
    """
    generator = random.Random(seed)

    async def stream(token: str, told: Told, until: float) -> None:
        connection = Connection(port, token)
        try:
            while time.monotonic() < until:
                ask, began = generator.choice(asks), time.monotonic()
                while True:
                    answer = await connection.exchange(ask)
                    answer.seconds = time.monotonic() - began
                    told.answers.append(answer)
                    if not is_kept_open:
                        connection.close()
                    if answer.outcome != "refused" or time.monotonic() >= until:
                        break
                    await asyncio.sleep(RETRY_SECONDS)
        except ConnectionRefusedError:
            return
        finally:
            connection.close()

    tolds = [Told() for _ in (*clients, *arrivals)]

    async def run(_: Told) -> None:
        until, of = time.monotonic() + seconds, iter(tolds)
        jobs: list[Coroutine[Any, Any, None]] = []
        for token, count in clients:
            told = next(of)
            jobs += [stream(token, told, until) for _ in range(count)]
        for (token, rate), told in zip(arrivals.items(), of, strict=True):
            jobs.append(_arrive(port, asks, told, generator, rate, seconds, token))
        await asyncio.gather(*jobs)

    whole = _measured(run)
    for told in tolds:
        told.seconds, told.cpu_seconds = whole.seconds, whole.cpu_seconds
    return tolds


def run_arrivals(
    port: int, asks: Sequence[Ask], *, per_second: float, seconds: float, seed: int = 0
) -> Told:
    """Send requests, chosen at random from `asks`, at random times, each over its own connection,
    without waiting for earlier answers.

    per_second: the mean number of requests per second.
    """
    generator = random.Random(seed)
    return _measured(lambda told: _arrive(port, asks, told, generator, per_second, seconds))


async def _arrive(
    port: int,
    asks: Sequence[Ask],
    told: Told,
    generator: random.Random,
    per_second: float,
    seconds: float,
    token: str = "",
) -> None:
    async def one(ask: Ask) -> None:
        connection = Connection(port, token)
        told.answers.append(await connection.exchange(ask))
        connection.close()

    began = at = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while (at := at + generator.expovariate(per_second)) < began + seconds:
            await asyncio.sleep(max(at - time.monotonic(), 0))
            group.create_task(one(generator.choice(asks)))


def _measured(run: Callable[[Told], Coroutine[Any, Any, None]]) -> Told:
    told, began, used = Told(), time.monotonic(), time.process_time()
    asyncio.run(run(told))
    told.seconds, told.cpu_seconds = time.monotonic() - began, time.process_time() - used
    return told


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return the 50th and 99th percentile of some seconds, in milliseconds."""
    return {f"p{q}_ms": 1e3 * float(np.percentile(seconds or [0.0], q)) for q in (50, 99)}
