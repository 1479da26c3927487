"""Runs the application in uvicorn: opens the socket, and stops gracefully at a signal."""

import asyncio
import errno
import logging
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from configs.errors import UsageError
from configs.schema.serve import Serve
from serving.accepting import Acceptor
from serving.connections import Connections, allow_connections
from serving.errors import stopping
from serving.log import log, set_up_logging
from serving.protocol import HttpProtocol
from serving.service import Service

SECONDS_BETWEEN_LOOKS = 0.05
"""Time between two checks of whether the server should stop, and whether it has drained."""

FAREWELL_SECONDS = 1.0
"""Time to send an error to the clients whose answers are given up."""

LAST_ONES_SECONDS = 0.2
"""Time to answer requests that arrived just before the server stopped accepting connections."""

LAST_BYTES_SECONDS = 0.5
"""Time from then on until connections that are still open are aborted; uvicorn waits for 1 s."""

THREADS_SECONDS = 1.0
"""Time to wait for running threads before the process exits."""

BACKLOG = 1024
"""Maximum number of connections that the operating system queues until they are accepted."""


class Server(uvicorn.Server):
    """A server that finishes the accepted requests before it stops.

    From SIGTERM or SIGINT on it is not ready, and refuses new requests with status 503; it still
    accepts connections to do so. It stops when all requests are answered, or after `drain_seconds`;
    a second signal ends that wait. It also stops when the model has failed, so that a supervisor
    can restart it.
    """

    def __init__(self, app: ASGIApp, service: Service, limits: Serve):
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(round(limits.keep_alive_seconds), 1),
                timeout_graceful_shutdown=1,
            )
        )
        self._service, self._limits = service, limits
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. Further signals are counted: they end the waits of `_drain`."""
        self._signals += 1
        self._service.is_draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections on `sockets`, which are listening."""
        await super().startup([])
        connections = Connections(allow_connections(self._limits.max_connections))
        protocol = partial(
            HttpProtocol,
            self.config,
            self.server_state,
            self.lifespan.state,
            limits=self._limits,
            connections=connections,
        )
        seconds = self._limits.header_seconds
        self._acceptor = Acceptor(sockets or (), protocol, connections, silent_seconds=seconds)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, let requests that have just arrived be refused, and close all
        connections."""
        self._acceptor.close()
        await asyncio.sleep(LAST_ONES_SECONDS)
        self._acceptor.close_silent()
        # A client that is still sending would be waited for, and uvicorn log an error.
        loop = asyncio.get_running_loop()
        ending = loop.call_later(LAST_BYTES_SECONDS, self._abort_connections)
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer requests until a signal comes, then drain and stop."""
        asyncio.get_running_loop().set_default_executor(_Threads())
        starting = asyncio.ensure_future(self._service.start())
        draining = asyncio.ensure_future(self._drain())
        try:
            await super().serve(sockets)
        finally:
            for task in (starting, draining):
                task.cancel()
            self._service.stop()

    async def _drain(self) -> None:
        while not self._service.is_draining and not self._service.has_failed:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        log("stopping", in_flight=self._service.in_flight)
        await self._wait_for_answers(self._limits.drain_seconds, most_signals=1)
        self._service.give_up()
        await self._wait_for_answers(FAREWELL_SECONDS, most_signals=2)
        for connection in self._connections():
            connection.give_up(stopping())
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        self.should_exit = True

    async def _wait_for_answers(self, seconds: float, *, most_signals: int) -> None:
        """Wait until all answers are sent, for at most `seconds`. The wait ends early once more
        than `most_signals` signals have come."""
        now = asyncio.get_running_loop().time
        deadline = now() + seconds
        while (
            (self._service.in_flight or any(one.has_unsent for one in self._connections()))
            and now() < deadline
            and self._signals <= most_signals
        ):
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    def _abort_connections(self) -> None:
        for connection in self._connections():
            connection.abort()

    def _connections(self) -> list[HttpProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, HttpProtocol)]


class _Threads(ThreadPoolExecutor):
    """The event loop's default executor. Its shutdown does not wait for running threads."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Raises `UsageError` if the address can't be
    used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY, which sends small parts at once, only if the protocol is given.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host.strip("[]"), port))
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise UsageError(
            f"--host={host} --port={port} can't be used: {error.strerror}{_remedy(error)}"
        ) from None
    return opened


def _remedy(error: OSError) -> str:
    """Return what to do about an address that can't be used, for the end of a message."""
    if error.errno == errno.EADDRINUSE:
        return ": give another --port=N, or --port=0 for any that is free"
    if error.errno == errno.EACCES:
        return ": give a --port=N from 1024 on"
    return ""


def run(app: ASGIApp, service: Service, limits: Serve, opened: socket.socket) -> int:
    """Answer requests at the listening socket until a signal comes. Return the exit status: 1 if
    the model has failed, else 0."""
    set_up_logging()
    server = Server(app, service, limits)
    address, port = opened.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    log("listening", url=f"http://{shown}:{port}", model=service.name)
    asyncio.run(server.serve([opened]))
    status = 1 if service.has_failed else 0
    log("stopped", status=status)
    return status


def leave_if_busy(status: int) -> None:
    """Exit the process with `status` if threads still run after `THREADS_SECONDS`, such as one that
    compiles: at a normal exit, the interpreter would wait for them."""
    deadline = time.monotonic() + THREADS_SECONDS
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(deadline - time.monotonic(), 0))
    if threading.active_count() > 1:
        logging.shutdown()
        sys.stderr.flush()
        os._exit(status)
