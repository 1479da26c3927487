"""uvicorn's HTTP protocol, with deadlines, a limit of connections, and errors in OpenAI's
format."""

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
"""Time for which the rest of a request is read and discarded after its answer. If the connection
were closed at once, a client that is still sending would often lose the answer."""

GRACE_SECONDS = 1.0
"""Time beyond `serve.body_seconds` in which the route can itself report that the body is late."""


class HttpProtocol(H11Protocol):
    """The protocol of one connection.

    There are deadlines for the header and the body of a request, for an idle connection, and for a
    client that does not read its answer. limits: the deadlines and sizes. connections: all open
    connections.
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
        """Return whether a part of an answer is unsent because the client does not read."""
        return self._socket.get_write_buffer_size() > 0

    @property
    def is_answering(self) -> bool:
        """Return whether there is a request that is not answered completely."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Begin to read, or refuse the connection if there are too many and none can be closed."""
        self._socket = transport
        transport.set_write_buffer_limits(high=0)  # `pause_writing`: something is unsent.
        wrapped: Any = _ClosingTransport(transport, self._close)
        super().connection_made(wrapped)
        if self._open.add(self):
            self._follow()
        else:
            self._refuse(try_again(TEXTS[503]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection, cancel its timers, and end the request that is being answered."""
        self._is_lost = True
        self._open.remove(self)
        for timer in (self._timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self.transport = self._socket  # Breaks a reference cycle: received data is freed.

    def data_received(self, data: bytes) -> None:
        """Process a part of a request, or discard it if the connection is being closed."""
        if not self.transport.is_closing():
            super().data_received(data)
            self._follow()

    def eof_received(self) -> None:
        """Treat a client that has finished sending as disconnected: asyncio closes the connection
        when everything is sent; after `unread_seconds` it is aborted."""
        self._abort_after(self._limits.unread_seconds)

    def on_response_complete(self) -> None:
        """Go on to the next request on the connection."""
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        """Wait for the client to read. The connection is aborted after `unread_seconds`."""
        super().pause_writing()
        self._open.set_unread(self)
        self._unread_timer = self.loop.call_later(self._limits.unread_seconds, self.abort)

    def resume_writing(self) -> None:
        """Continue to write: the client has read everything."""
        super().resume_writing()
        self._open.set_read(self)
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that the parser rejected, with the parser's `refusal`. uvicorn calls
        this."""
        self._refuse(ApiError(*self.conn.refusal))

    def shutdown(self) -> None:
        """Close the connection, after the current answer if there is one."""
        if self.is_answering:
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    def give_up(self, error: ApiError) -> None:
        """End an answer that is incomplete or unsent, and close the connection.

        The client gets `error` if its answer has not begun; otherwise, or if it does not read, the
        connection is aborted. Does nothing if there is no such answer.
        """
        if self.is_answering and not self.has_unsent:
            self._refuse(error)
        elif self.is_answering or self.has_unsent:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, and drop what is unsent."""
        self._socket.abort()

    def _should_upgrade(self) -> bool:
        return False  # The answer in HTTP/1.1 shows the client that there is no upgrade.

    def _bound_next(self) -> None:
        """Keep reading while a request is answered, to notice if the client disconnects: uvicorn
        stops reading at the first byte of the next request. If that request exceeds
        `max_header_bytes`, the connection is aborted."""
        if self.conn.their_state is h11.DONE:
            if len(self.conn.trailing_data[0]) > self._limits.max_header_bytes:
                self.abort()
            else:
                self.flow.resume_reading()

    def _follow(self) -> None:
        """Set the stage of the connection, and the deadline for what the client must send next."""
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
        """Enter a phase of a request, and call `too_late` after `seconds`, if any. Nothing changes
        if the connection is in this phase already."""
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
        """Answer an invalid or incomplete request with an error, and close the connection."""
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
        """Close the connection, in place of `transport.close`. If the client is still sending, what
        it sends is discarded for `LINGER_SECONDS` first."""
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
    """Wraps a transport: `close` calls a function of the protocol, and later writes are dropped."""

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
    """Return a complete HTTP response with an error."""
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
