"""A connection gets its protocol with its first byte, and those that are silent make room."""

import asyncio
import errno
import socket

import pytest

from configs.errors import UsageError
from serving import accepting
from serving.accepting import Acceptor
from serving.connections import Connections, Stage
from serving.server import listen

SECONDS = 60


class Seen(asyncio.Protocol):
    """A connection that sends, in the list of them all. data: what it has sent."""

    def __init__(self, all_of_them):
        self.data = b""
        all_of_them.append(self)

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data


class Accepting:
    """An acceptor on a free port, in the running event loop. seen: the connections that sent."""

    def __init__(self, *, most=8, silent_seconds=80000.0):
        self.seen, self._clients = [], []
        self.opened = listen("127.0.0.1", 0)
        self.connections = Connections(most)
        self.acceptor = Acceptor(
            [self.opened], lambda: Seen(self.seen), self.connections, silent_seconds=silent_seconds
        )

    def connect(self, data=b""):
        """Open a connection whose first bytes come with it."""
        client = socket.create_connection(self.opened.getsockname(), timeout=SECONDS)
        self._clients.append(client)
        if data:
            client.sendall(data)
        client.setblocking(False)
        return client

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        self.acceptor.close()
        self.acceptor.close_silent()
        for one in self.seen:
            one.transport.abort()
        for one in (*self._clients, self.opened):
            one.close()


def run(test):
    async def timed():
        async with asyncio.timeout(SECONDS):
            await test()

    asyncio.run(timed())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def is_closed(client):
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_connection_gets_its_protocol_with_its_first_byte():
    async def send():
        async with Accepting() as server:
            client = server.connect()
            await until(lambda: server.acceptor.silent)
            assert len(server.connections) == 1 and not server.seen
            client.sendall(b"one")
            await until(lambda: server.seen and server.seen[0].data == b"one")
            assert not server.acceptor.silent and not len(server.connections)
            client.sendall(b" two")
            await until(lambda: server.seen[0].data == b"one two")

    run(send)


def test_small_parts_of_an_answer_are_sent_at_once():
    async def send():
        async with Accepting() as server:
            server.connect(b"x")
            await until(lambda: server.seen and server.seen[0].data)
            peer = server.seen[0].transport.get_extra_info("socket")
            assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    run(send)


def test_one_that_leaves_without_a_byte_gets_none():
    async def leave():
        async with Accepting() as server:
            client = server.connect()
            await until(lambda: server.acceptor.silent)
            client.close()
            await until(lambda: not len(server.connections))
            assert not server.seen and not server.acceptor.silent

    run(leave)


def test_one_that_stays_silent_is_closed():
    async def wait():
        async with Accepting(silent_seconds=0.05) as server:
            client = server.connect()
            await until(lambda: is_closed(client))
            assert not server.seen and not len(server.connections)

    run(wait)


def test_at_the_cap_the_oldest_silent_one_makes_room_and_what_is_sent_is_read():
    async def flood():
        async with Accepting(most=8) as server:
            clients = [server.connect() for _ in range(20)]
            await until(lambda: all(is_closed(one) for one in clients[:12]))
            last = server.connect(b"request")
            more = [server.connect() for _ in range(20)]
            await until(lambda: server.seen and server.seen[0].data == b"request")
            await until(lambda: all(is_closed(one) for one in more[:12]))
            assert not is_closed(last) and len(server.acceptor.silent) == 8

    run(flood)


def test_what_there_is_no_room_for_is_told_by_its_protocol():
    async def refuse():
        async with Accepting(most=1) as server:
            answered = Seen([])
            server.connections.add(answered)
            server.connections.move(answered, Stage.ANSWERED)
            server.connect()
            await until(lambda: server.seen)
            assert len(server.connections) == 1

    run(refuse)


def test_silent_ones_are_closed_at_the_end_and_none_is_accepted_any_more():
    async def end():
        async with Accepting() as server:
            client = server.connect()
            await until(lambda: server.acceptor.silent)
            server.acceptor.close()
            server.acceptor.close_silent()
            await until(lambda: is_closed(client))
            server.connect(b"x")
            await asyncio.sleep(0.05)
            assert not server.seen and not len(server.connections)

    run(end)


def test_when_no_file_can_be_opened_it_is_tried_again(monkeypatch):
    async def fail():
        monkeypatch.setattr(accepting, "PAUSE_SECONDS", 0.01)
        async with Accepting() as server:
            failures = [errno.EMFILE, errno.ECONNABORTED, errno.EMFILE]

            class Failing(socket.socket):
                def accept(self):
                    if failures:
                        raise OSError(failures.pop(), "failed")
                    return super().accept()

            server.acceptor.close()
            opened = Failing(fileno=server.opened.detach())
            server.opened = opened
            server.acceptor = Acceptor(
                [opened], lambda: Seen(server.seen), server.connections, silent_seconds=80000.0
            )
            server.connect(b"x")
            await until(lambda: server.seen and server.seen[0].data == b"x")
            assert not failures

    run(fail)


def test_a_port_in_use_is_refused_with_what_to_do():
    with listen("127.0.0.1", 0) as opened:
        port = opened.getsockname()[1]
        with pytest.raises(UsageError) as refused:
            listen("127.0.0.1", port)
    message = str(refused.value)
    assert message.startswith(f"--host=127.0.0.1 --port={port} can't be used: ")
    assert message.endswith(": give another --port=N, or --port=0 for any that is free")
