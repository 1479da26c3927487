"""A connection: who has left is noticed, and who does not read makes room for others."""

import asyncio

import uvicorn
from uvicorn.server import ServerState

from configs.schema.serve import Serve
from serving.connections import UNREAD_SECONDS, Connections, Stage
from serving.errors import stopping
from serving.protocol import HttpProtocol
from tests.serving.sockets import get

SECONDS = 60
LARGE = 32 << 20
"""Bytes of an answer that no buffer of the system holds."""


class Listening:
    """A server on a free port, in the running event loop. protocols: of its connections."""

    def __init__(self, app, *, most=10):
        self.now, self.protocols, self._clients = 0.0, [], []
        self.connections = Connections(most, lambda: self.now)
        config, state = uvicorn.Config(app, log_config=None, lifespan="off"), ServerState()

        def protocol():
            limits = Serve(unread_seconds=80000)
            one = HttpProtocol(config, state, {}, limits=limits, connections=self.connections)
            self.protocols.append(one)
            return one

        self._protocol = protocol

    async def __aenter__(self):
        self._server = await asyncio.get_running_loop().create_server(self._protocol, "127.0.0.1")
        self._address = self._server.sockets[0].getsockname()
        return self

    async def __aexit__(self, *exception):
        for protocol in self.protocols:
            protocol.abort()
        self._server.close()

    async def send(self, data):
        """Send bytes over a new connection; return its reader and writer."""
        reader, writer = await asyncio.open_connection(*self._address, limit=1 << 10)
        writer.write(data)
        self._clients.append((reader, writer))  # What nobody holds is closed.
        return reader, writer


def run(test):
    async def timed():
        async with asyncio.timeout(SECONDS):
            await test

    asyncio.run(timed())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def answering(size):
    """Return an application that answers with a body of a size."""

    async def app(scope, receive, send):
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    return app


def waiting():
    """Return an application that answers nothing before its client leaves, and what tells of the
    request and of that."""
    has_begun, has_left = asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        has_begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left.set()

    return app, has_begun, has_left


def test_a_client_that_leaves_is_noticed_after_bytes_of_a_next_request():
    async def leave():
        app, has_begun, has_left = waiting()
        async with Listening(app) as server:
            _, writer = await server.send(get("/") + b"G")
            await has_begun.wait()
            writer.write(b"ET /")
            writer.close()
            await has_left.wait()

    run(leave())


def test_what_comes_of_next_requests_is_bounded():
    async def flood():
        app, _, has_left = waiting()
        async with Listening(app) as server:
            await server.send(get("/") + b"x" * Serve().max_header_bytes * 2)
            await has_left.wait()

    run(flood())


def test_answers_that_nobody_reads_make_room():
    async def hold():
        async with Listening(answering(LARGE), most=2) as server:
            for request in (get("/") * 3, get("/", "Connection: close")):
                await server.send(request)
            await until(lambda: all(one.has_unsent for one in server.protocols))
            for one in server.protocols:  # It is noted however little is unsent.
                assert one.transport.get_write_buffer_limits() == (0, 0)
            reader, _ = await server.send(get("/"))
            assert await reader.readline() == b"HTTP/1.1 503 Service Unavailable\r\n"
            server.now += UNREAD_SECONDS
            for _ in range(2):
                reader, _ = await server.send(get("/"))
                assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"

    run(hold())


def test_a_connection_whose_last_answer_is_written_is_leaving():
    async def ask():
        async with Listening(answering(LARGE)) as server:
            await server.send(get("/", "Connection: close"))
            await until(lambda: server.protocols and server.protocols[0].has_unsent)
            stage = server.connections.stage
            await until(lambda: stage(server.protocols[0]) is Stage.LEAVING)

    run(ask())


def test_giving_up_answers_what_has_not_begun():
    async def give_up():
        app, has_begun, has_left = waiting()
        async with Listening(app) as server:
            reader, _ = await server.send(get("/"))
            await has_begun.wait()
            server.protocols[0].give_up(stopping())
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ") and b"service_unavailable" in answer
            await has_left.wait()

    run(give_up())
