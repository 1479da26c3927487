"""At the cap, the connection that is needed least makes room for a new one."""

import resource

from serving.connections import UNREAD_SECONDS, Connections, Stage, allow_connections


class Fake:
    is_aborted = False

    def abort(self):
        self.is_aborted = True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def full(*stages, clock=None):
    """Return connections at the cap, one in each of the stages."""
    clock = clock or Clock()
    members, connections = [Fake() for _ in stages], Connections(len(stages), clock)
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


def test_a_refused_connection_makes_no_room_beyond_the_cap():
    connections, members = full(Stage.ANSWERED, Stage.ANSWERED)
    for _ in range(5):
        new = Fake()
        assert not connections.add(new)
        connections.move(new, Stage.LEAVING)
    assert len(connections) == 3 and aborted(members) == [False] * 2
    connections.move(members[0], Stage.WAITING)
    assert connections.add(Fake()) and aborted([*members, new]) == [True, False, True]
    assert len(connections) == 2


def test_an_answer_that_is_not_sent_yet_is_not_cut_off():
    connections, members = full(Stage.WAITING, Stage.WAITING)
    connections.set_unread(members[0])
    assert connections.add(Fake()) and aborted(members) == [False, True]


def test_the_one_that_has_been_unread_longest_makes_room_but_none_that_is_being_read():
    clock = Clock()
    connections, members = full(*[Stage.ANSWERED] * 3, clock=clock)
    for member in members:
        connections.set_unread(member)
        clock.now += UNREAD_SECONDS / 4
    new = Fake()
    assert not connections.add(new)
    connections.remove(new)
    clock.now += UNREAD_SECONDS / 4
    connections.set_unread(members[0])  # It has been unread all the time.
    connections.set_read(members[1])
    for _ in range(2):
        connections.add(new := Fake())
        connections.remove(new)
    assert aborted(members) == [True, False, False]
    connections.add(another := Fake())
    connections.move(another, Stage.ANSWERED)
    clock.now += UNREAD_SECONDS
    assert connections.add(Fake()) and aborted(members) == [True, False, True]


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
