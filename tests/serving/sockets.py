"""A client of raw bytes, for requests that no library would send."""

import contextlib
import http.client
import io
import json
import socket
import time
from dataclasses import dataclass
from typing import Any

SECONDS = 120.0
"""How long an answer may take; far more than it should on a busy machine."""


@dataclass(frozen=True)
class Answer:
    """A response. headers: names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        """Return whether the connection ends with this response."""
        return self.headers.get("connection", "").lower() == "close"

    @property
    def error(self) -> dict[str, Any]:
        """Return the error in the body."""
        return json.loads(self.body)["error"]


class _Kept(io.BufferedReader):
    """What the server sends: it stays open, and keeps its bytes, from one response to the next."""

    def __init__(self, connection: socket.socket):
        super().__init__(socket.SocketIO(connection, "r"))

    def makefile(self, mode: str) -> "_Kept":
        return self

    def close(self) -> None:
        pass


class RawClient:
    """A connection to a server on this machine, as a context manager."""

    def __init__(self, port: int, *, seconds: float = SECONDS):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self._kept = _Kept(self.socket)

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a server that has closed the connection already is no error."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def answer(self, *, method: str = "GET") -> Answer | None:
        """Return the next response; None if the server closed the connection without one."""
        source: Any = self._kept
        response = http.client.HTTPResponse(source, method=method)
        try:
            response.begin()
            body = response.read()
        except (http.client.BadStatusLine, ConnectionResetError):
            return None
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, body)

    def is_closed(self) -> bool:
        """Wait for the server to close the connection. Returns False if it sends something."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def get(target: str, *headers: str, method: str = "GET", host: str = "localhost") -> bytes:
    """Return a request without a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def post(
    path: str, body: bytes | dict[str, Any], *headers: str, length: int | None = None
) -> bytes:
    """Return a request with a body, of JSON if it is a dictionary."""
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    given = {header.partition(":")[0].lower() for header in headers}
    more = [] if "content-type" in given else ["Content-Type: application/json"]
    if not given & {"content-length", "transfer-encoding"}:
        more.append(f"Content-Length: {len(content) if length is None else length}")
    return get(path, *headers, *more, method="POST") + content


def exchange(port: int, request: bytes, *, method: str = "GET") -> Answer | None:
    """Send a request over a connection of its own; return the response."""
    with RawClient(port) as client:
        client.send(request)
        return client.answer(method=method)


def wait_until(condition: Any, *, seconds: float = SECONDS) -> None:
    """Wait until `condition()` is true. Raises AssertionError if that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
