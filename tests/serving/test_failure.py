"""A server whose model has failed ends, so that whoever runs it starts it again; and whoever is
not answered when a server ends is told so."""

import asyncio

from starlette.types import Receive, Scope, Send

from configs.schema.serve import Serve
from serving.server import Server, listen, run
from tests.serving.sockets import post


class SmallService:
    """A service whose model fails when it starts, if `fails`."""

    name = "model"
    is_draining = has_failed = False
    in_flight = 0
    has_given_up = has_stopped = False

    def __init__(self, *, fails: bool = True):
        self._fails = fails

    async def start(self) -> None:
        self.has_failed = self._fails

    def give_up(self) -> None:
        self.has_given_up = True

    def stop(self) -> None:
        self.has_stopped = True


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers nothing."""


def test_a_server_ends_when_its_model_has_failed():
    service = SmallService()
    assert run(nothing, service, Serve(), listen("127.0.0.1", 0)) == 1
    assert service.has_given_up and service.has_stopped


def test_a_request_that_has_not_reached_the_model_is_told_that_the_server_stops():
    async def stop() -> bytes:
        has_begun = asyncio.Event()

        async def read(scope: Scope, receive: Receive, send: Send) -> None:
            has_begun.set()
            while (await receive())["type"] != "http.disconnect":
                pass

        service = SmallService(fails=False)
        opened = listen("127.0.0.1", 0)
        serving = asyncio.ensure_future(Server(read, service, Serve()).serve([opened]))
        reader, writer = await asyncio.open_connection(*opened.getsockname())
        writer.write(post("/", b"{", length=10))
        await has_begun.wait()
        service.is_draining = True
        answer = await reader.read()
        writer.close()
        await serving
        return answer

    async def timed() -> bytes:
        async with asyncio.timeout(60):
            return await stop()

    answer = asyncio.run(timed())
    assert answer.startswith(b"HTTP/1.1 503 ") and b"the server is stopping" in answer
