"""At the cap, the connection that is needed least makes room for a new one."""

import asyncio
import resource
import socket

from serving.connections import Connections, Stage, allow_connections
from serving.server import listen


class Fake:
    def __init__(self, has_unsent=False):
        self.has_unsent, self.is_aborted = has_unsent, False

    def abort(self):
        self.is_aborted = True


def full(*stages):
    """Return connections at the cap, one in each of the stages."""
    members, connections = [Fake() for _ in stages], Connections(len(stages))
    for member, stage in zip(members, stages, strict=True):
        assert connections.add(member)
        connections.move(member, stage)
    return connections, members


def aborted(members):
    return [member.is_aborted for member in members]


def test_the_one_that_has_waited_longest_is_closed():
    connections, members = full(Stage.ANSWERED, Stage.WAITING, Stage.WAITING)
    assert connections.add(Fake()) and aborted(members) == [False, True, False]
    assert connections.add(Fake()) and aborted(members) == [False, True, True]
    assert len(connections) == 3


def test_one_that_is_answered_goes_first_and_one_that_sends_its_body_last():
    connections, members = full(Stage.SENDING, Stage.WAITING, Stage.LEAVING)
    newer = [Fake() for _ in range(3)]
    for new in newer:
        assert connections.add(new)
        connections.move(new, Stage.ANSWERED)
    assert aborted(members) == [True, True, True]
    connections, members = full(Stage.SENDING, Stage.WAITING, Stage.LEAVING)
    connections.add(Fake())
    assert aborted(members) == [False, False, True]


def test_none_is_closed_while_it_is_answered():
    connections, members = full(Stage.ANSWERED, Stage.ANSWERED)
    new = Fake()
    assert not connections.add(new) and aborted([*members, new]) == [False] * 3
    connections.remove(new)
    assert len(connections) == 2 and connections.stage(new) is None


def test_an_answer_that_is_not_sent_yet_is_not_cut_off():
    connections, members = full(Stage.WAITING, Stage.WAITING)
    members[0].has_unsent = True
    assert connections.add(Fake()) and aborted(members) == [False, True]


def test_a_byte_does_not_bring_a_connection_to_the_end_of_the_queue():
    connections, members = full(Stage.WAITING, Stage.WAITING)
    connections.move(members[0], Stage.WAITING)
    assert connections.add(Fake()) and aborted(members) == [True, False]


def test_the_limit_of_open_files_is_raised_or_obeyed():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[0]), hard))
        assert allow_connections(600) == 600
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 856
        if hard != resource.RLIM_INFINITY:
            assert allow_connections(hard + 1) < hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_small_parts_of_an_answer_are_sent_at_once():
    async def accepted() -> int:
        found = asyncio.get_running_loop().create_future()

        async def serve(reader, writer):
            peer = writer.get_extra_info("socket")
            found.set_result(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        opened = listen("127.0.0.1", 0)
        async with await asyncio.start_server(serve, sock=opened):
            _, writer = await asyncio.open_connection(*opened.getsockname())
            writer.close()
            return await asyncio.wait_for(found, 60)

    assert asyncio.run(accepted())
