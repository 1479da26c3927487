"""Accepts connections, and builds the HTTP protocol of a connection only when its first byte
arrives.

So a flood of connections that send nothing costs one socket each and little time: to build and
close an asyncio connection with its parser takes about ten times as long.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

from serving.connections import Connections
from serving.log import log

ACCEPTED_AT_ONCE = 256
"""Maximum number of connections that are accepted before data from other connections is read."""

PAUSE_SECONDS = 0.5
"""Time until connections are accepted again after the system ran out of file descriptors or
memory."""

NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of `accept` when the process or the system has no room for another connection."""


class Acceptor:
    """Accepts connections at sockets that are already listening.

    protocol: returns the protocol for a connection that has sent its first byte. connections: all
    open connections. silent_seconds: time after which a connection that has sent nothing is closed.
    A connection beyond the limit gets its protocol at once, which refuses it with an error.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        protocol: Callable[[], asyncio.Protocol],
        connections: Connections,
        *,
        silent_seconds: float,
    ):
        self.protocol, self.silent_seconds = protocol, silent_seconds
        self.loop = asyncio.get_running_loop()
        self.silent: set[_Silent] = set()
        self._open, self._sockets = connections, list(sockets)
        # So few that a request that arrives with its connection is read before newer connections
        # can replace that one.
        self._at_once = max(min(ACCEPTED_AT_ONCE, connections.most // 4), 1)
        self._beginning: set[asyncio.Task[None]] = set()
        for opened in self._sockets:
            opened.setblocking(False)
            self._start(opened)

    def close(self) -> None:
        """Accept no more connections."""
        for opened in self._sockets:
            if opened.fileno() >= 0:
                self.loop.remove_reader(opened)
        self._sockets.clear()

    def close_silent(self) -> None:
        """Close all connections that have sent nothing."""
        for one in list(self.silent):
            one.abort()

    def forget(self, one: "_Silent") -> None:
        """Stop tracking a connection that has sent nothing until now."""
        self.silent.discard(one)
        self._open.remove(one)

    def begin(self, accepted: socket.socket) -> None:
        """Build the asyncio connection and the protocol for a socket."""
        task = self.loop.create_task(self._connect(accepted))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(self.protocol, accepted)
        except OSError:  # The client has disconnected.
            accepted.close()

    def _start(self, opened: socket.socket) -> None:
        if opened in self._sockets:
            # `call_soon`, so that what open connections have sent is read first: a connection whose
            # request has arrived is then not replaced by a new one.
            self.loop.add_reader(opened, self.loop.call_soon, self._accept, opened)

    def _accept(self, opened: socket.socket) -> None:
        if opened not in self._sockets:
            return
        for _ in range(self._at_once):
            try:
                accepted, _ = opened.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in NO_ROOM:
                    continue  # The client disconnected before it was accepted.
                log("no connection can be accepted for a while", error=error.strerror)
                self.loop.remove_reader(opened)
                self.loop.call_later(PAUSE_SECONDS, self._start, opened)
                return
            accepted.setblocking(False)
            one = _Silent(self, accepted)
            if self._open.add(one):
                one.wait()
            else:
                self.forget(one)
                self.begin(accepted)


class _Silent:
    """An accepted connection that has sent nothing."""

    def __init__(self, acceptor: Acceptor, accepted: socket.socket):
        self._acceptor, self._socket = acceptor, accepted

    def wait(self) -> None:
        """Wait for the first byte; close the connection if it does not arrive in time."""
        acceptor = self._acceptor
        acceptor.silent.add(self)
        acceptor.loop.add_reader(self._socket, self._begin)
        self._timer = acceptor.loop.call_later(acceptor.silent_seconds, self.abort)

    def abort(self) -> None:
        """Close the connection."""
        self._end()
        self._socket.close()

    def _begin(self) -> None:
        try:
            has_left = not self._socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            has_left = True
        self._end()
        if has_left:
            self._socket.close()
        else:
            self._acceptor.begin(self._socket)

    def _end(self) -> None:
        self._timer.cancel()
        self._acceptor.loop.remove_reader(self._socket)
        self._acceptor.forget(self)
