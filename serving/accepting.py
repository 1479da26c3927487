"""Accepts connections, and builds what answers one when its first byte comes.

A flood of connections that send nothing so costs a socket each and little time: a connection of
asyncio with its parser takes about ten times as long to build and to close.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

from serving.connections import Connections
from serving.log import log

ACCEPTED_AT_ONCE = 256
"""Connections that are accepted before what others have sent is read, at most."""

PAUSE_SECONDS = 0.5
"""Time until connections are accepted again after the system had no room for one."""

NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts the connections of open sockets, which listen already.

    protocol: returns a new protocol for a connection that sends. connections: all that are open.
    silent_seconds: time after which one that has sent nothing is closed. A connection for which
    there is no room is handed over at once: its protocol tells the client.
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
        # A request that comes with its connection is read before so many others take its place.
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
        """Count a connection no more."""
        self.silent.discard(one)
        self._open.remove(one)

    def begin(self, accepted: socket.socket) -> None:
        """Give a connection its protocol."""
        task = self.loop.create_task(self._connect(accepted))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(self.protocol, accepted)
        except OSError:  # The client has left.
            accepted.close()

    def _start(self, opened: socket.socket) -> None:
        if opened in self._sockets:
            # Behind what was sent over open connections: those that are read keep their places.
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
                    continue  # The client has left before it was accepted.
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
    """A connection that has sent nothing."""

    def __init__(self, acceptor: Acceptor, accepted: socket.socket):
        self._acceptor, self._socket = acceptor, accepted

    def wait(self) -> None:
        """Wait for its first byte, for a limited time."""
        acceptor = self._acceptor
        acceptor.silent.add(self)
        acceptor.loop.add_reader(self._socket, self._begin)
        self._timer = acceptor.loop.call_later(acceptor.silent_seconds, self.abort)

    def abort(self) -> None:
        """Close it."""
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
