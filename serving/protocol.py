"""uvicorn's HTTP protocol, with deadlines, a cap on connections, and errors in our form."""

import asyncio
import contextlib
import http
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from configs.schema.serve import Serve
from serving.connections import Connections, Stage
from serving.errors import ApiError, try_again
from serving.log import log
from serving.parsing import TEXTS, RequestParser
from serving.responses import json_bytes

LINGER_SECONDS = 5.0
"""Time for which the rest of a request is thrown away after its answer. If the connection were
closed at once, the client would often lose the answer while it still sends."""

GRACE_SECONDS = 1.0
"""Time after `serve.body_seconds` for the route to answer that the body did not come."""


class HttpProtocol(H11Protocol):
    """A connection.

    A header, a body and an idle connection have deadlines, and so has a client that does not read
    what is written to it. limits: the deadlines and sizes. connections: all that are open.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Serve,
        connections: Connections,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.conn: RequestParser = RequestParser(limits.max_header_bytes)
        self._limits, self._open = limits, connections
        self._phase: tuple[str, object] = ("", None)
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._is_refused = self._is_lost = False
        self._socket: Any = None

    @property
    def has_unsent(self) -> bool:
        """Return whether a part of an answer waits until the client reads."""
        return self._socket.get_write_buffer_size() > 0

    @property
    def is_answering(self) -> bool:
        """Return whether there is a request without its complete answer."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Begin, or refuse the connection if too many are being answered."""
        self._socket = transport
        transport.set_write_buffer_limits(high=0)  # `pause_writing` means: something is unsent.
        wrapped: Any = _ClosingTransport(transport, self._close)
        super().connection_made(wrapped)
        if self._open.add(self):
            self._follow()
        else:
            self._refuse(try_again(TEXTS[503]))

    def connection_lost(self, exc: Exception | None) -> None:
        """End what waits for the client."""
        self._is_lost = True
        self._open.remove(self)
        for timer in (self._timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self.transport = self._socket  # No cycle of references keeps what was received.

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; nothing, if the connection is being closed."""
        if not self.transport.is_closing():
            super().data_received(data)
            self._follow()

    def eof_received(self) -> None:
        """Take a client that sends no more for one that has left."""
        self._abort_after(self._limits.unread_seconds)

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        """Wait for the client to read, for a limited time."""
        super().pause_writing()
        self._open.set_unread(self)
        self._unread_timer = self.loop.call_later(self._limits.unread_seconds, self.abort)

    def resume_writing(self) -> None:
        """Go on to write."""
        super().resume_writing()
        self._open.set_read(self)
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read; uvicorn calls this."""
        self._refuse(ApiError(*self.conn.refusal))

    def shutdown(self) -> None:
        """Close the connection, after the answer if there is one to come."""
        if self.is_answering:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def give_up(self, error: ApiError) -> None:
        """Answer with an error in place of an answer that has not begun, and close the connection;
        at once if its client does not read. Without an answer to come, nothing is done."""
        if self.is_answering and not self.has_unsent:
            self._refuse(error)
        elif self.is_answering or self.has_unsent:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, whatever is not sent."""
        self._socket.abort()

    def _should_upgrade(self) -> bool:
        return False  # An answer in HTTP/1.1 tells the client.

    def _bound_next(self) -> None:
        """Go on reading while a request is answered, to notice when the client leaves: uvicorn
        stops at the first byte of a next request. What comes of that one is bounded."""
        if self.conn.their_state is h11.DONE:
            if len(self.conn.trailing_data[0]) > self._limits.max_header_bytes:
                self.abort()
            else:
                self.flow.resume_reading()

    def _follow(self) -> None:
        """Set the stage of the connection, and the deadline of what it waits for."""
        if self.transport.is_closing():
            return
        theirs, limits = self.conn.their_state, self._limits
        if theirs is h11.IDLE:
            is_new = self.cycle is None or bool(self.conn.trailing_data[0])
            if is_new:
                self._wait("header", Stage.WAITING, limits.header_seconds, self._header_is_late)
            else:
                self._wait("idle", Stage.WAITING, limits.keep_alive_seconds, self.transport.close)
        elif theirs is h11.SEND_BODY and self.is_answering:
            seconds = limits.body_seconds + GRACE_SECONDS
            self._wait("body", Stage.SENDING, seconds, self._body_is_late)
        elif theirs is h11.SEND_BODY:
            self._wait("rest", Stage.LEAVING, LINGER_SECONDS, self.transport.close)
        else:
            self._wait("answer", Stage.ANSWERED, None, self.abort)
            self._bound_next()

    def _wait(
        self, phase: str, stage: Stage, seconds: float | None, too_late: Callable[[], None]
    ) -> None:
        """Enter a phase of a request; nothing changes if the connection is in it."""
        if self._phase == (phase, self.cycle):
            return
        self._phase = (phase, self.cycle)
        self._open.move(self, stage)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, too_late)

    def _abort_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self.abort)

    def _header_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._refuse(ApiError(408, TEXTS[408]))
        else:
            self.transport.close()

    def _body_is_late(self) -> None:
        self._refuse(ApiError(408, TEXTS[408]))

    def _refuse(self, error: ApiError) -> None:
        """Answer what is no request, or half of one, with an error, and close the connection."""
        self._is_refused = True
        log("refused", client=self.client[0] if self.client else None, status=error.status)
        if self.is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_error_bytes(error))
            self.transport.close()
        else:
            self.abort()

    def _close(self) -> None:
        """End the connection as `transport.close` should: if the client is still sending, it first
        gets the time to notice."""
        if self._is_lost:
            return
        self._open.move(self, Stage.LEAVING)
        is_sending = self._is_refused or self.conn.their_state is h11.SEND_BODY
        if is_sending and not self._socket.is_closing():
            with contextlib.suppress(OSError):  # The client has closed the connection.
                self._socket.write_eof()
            self._socket.resume_reading()
            self._abort_after(LINGER_SECONDS)
        else:
            self._socket.close()
            self._abort_after(self._limits.unread_seconds)


class _ClosingTransport:
    """A transport whose `close` is the protocol's."""

    def __init__(self, transport: Any, close: Callable[[], None]):
        self._transport, self._close, self._is_closed = transport, close, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._is_closed or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._is_closed:
            self._transport.write(data)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._close()


def _error_bytes(error: ApiError) -> bytes:
    """Return a whole response with an error."""
    body = json_bytes(error.body())
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
    } | error.headers
    lines = [f"HTTP/1.1 {error.status} {http.HTTPStatus(error.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
