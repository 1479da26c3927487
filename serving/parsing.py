"""Parses HTTP/1.1 with h11, and also refuses requests that are ambiguous, too large, or in too
small chunks."""

from typing import Any

import h11

FREE_CHUNKS, LEAST_BYTES_PER_CHUNK = 4096, 64
"""A chunked body may have `FREE_CHUNKS` chunks, and one more for each `LEAST_BYTES_PER_CHUNK`
bytes: reading a chunk takes as long as reading thousands of bytes."""

TEXTS = {
    400: "this is not a valid HTTP/1.1 request",
    408: "the request did not come in time",
    431: "the header is too large: serve.max_header_bytes is the limit",
    501: "a Transfer-Encoding other than chunked is not supported",
    503: "too many connections are open: try again",
    505: "only HTTP/1.0 and HTTP/1.1 are supported",
}


class RequestParser(h11.Connection):
    """The parser of a connection, and its state in HTTP.

    most_bytes: maximum size of a header. refusal: after an `h11.RemoteProtocolError`, the status
    and the message for the client; h11's own message could repeat what the client sent.
    """

    def __init__(self, most_bytes: int):
        super().__init__(h11.SERVER, most_bytes)
        self._most_bytes = most_bytes
        self._chunks = self._bytes = 0
        self.refusal = (400, TEXTS[400])

    def next_event(self) -> Any:
        """Return the next event, as h11 does. Raises `h11.RemoteProtocolError`."""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            self.refusal = (status, TEXTS.get(status, TEXTS[400]))
            raise
        if isinstance(event, h11.Request):
            self._check_header(event)
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._check_chunk(event)
        return event

    def _check_header(self, request: h11.Request) -> None:
        size = len(request.method) + len(request.target) + 12
        size += sum(len(name) + len(value) + 4 for name, value in request.headers)
        if size > self._most_bytes:
            self._refuse(431)
        if request.http_version not in (b"1.0", b"1.1"):
            self._refuse(505)
        names = {name for name, _ in request.headers}
        if b"transfer-encoding" in names and (
            b"content-length" in names or request.http_version == b"1.0"
        ):
            self._refuse(400, "a body has Content-Length or Transfer-Encoding, not both")
        if not request.target.startswith(b"/"):
            self._refuse(400, "the target of a request must be a path")

    def _check_chunk(self, data: h11.Data) -> None:
        self._chunks += data.chunk_start
        self._bytes += len(data.data)
        if self._chunks > FREE_CHUNKS + self._bytes // LEAST_BYTES_PER_CHUNK:
            self._refuse(400, "the chunks of the body are too small")

    def _refuse(self, status: int, message: str = "") -> None:
        self.refusal = (status, message or TEXTS[status])
        raise h11.RemoteProtocolError(self.refusal[1], error_status_hint=status)
