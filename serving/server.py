"""Runs the application: listens, and ends in good order when it is told to."""

import asyncio
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from configs.errors import UsageError
from configs.schema.serve import Serve
from serving.log import log, set_up_logging
from serving.service import Service

SECONDS_BETWEEN_LOOKS = 0.05


class Server(uvicorn.Server):
    """A server that finishes what it has accepted.

    At SIGTERM or SIGINT it is not ready any more and takes no further requests, but still says so
    to those who ask. It ends when all requests are answered, or after `drain_seconds`; at a second
    signal at once. It also ends when the model has failed, so that it is started again.
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
                h11_max_incomplete_event_size=limits.max_header_bytes,
                timeout_keep_alive=max(round(limits.keep_alive_seconds), 1),
                timeout_graceful_shutdown=1,
            )
        )
        self._service, self._limits = service, limits
        self._signals = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, stop at once."""
        self._signals += 1
        self._service.is_draining = True
        if self._signals > 1:
            self.should_exit = True

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until a signal comes, and then until all is answered."""
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
        deadline = asyncio.get_running_loop().time() + self._limits.drain_seconds
        while self._service.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        self._service.give_up()
        await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Open the socket. Raises `UsageError` if the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host.strip("[]"), port))
        opened.listen(2048)
    except OSError as error:
        opened.close()
        raise UsageError(f"--host={host} --port={port} can't be used: {error.strerror}") from None
    return opened


def run(app: ASGIApp, service: Service, limits: Serve, opened: socket.socket) -> int:
    """Answer requests until a signal comes. Return the exit status."""
    set_up_logging()
    server = Server(app, service, limits)
    address, port = opened.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    log("listening", url=f"http://{shown}:{port}", model=service.name)
    asyncio.run(server.serve([opened]))
    return 1 if service.has_failed else 0
