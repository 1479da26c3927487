"""The processes of a run meet, or each of them says who did not come."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from parallel import rendezvous
from parallel.rendezvous import Absent, Rendezvous, name_processes

PATIENCE = 300  # seconds: what is waited for comes at once, unless the machine is busy


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class Run:
    """Processes of a run, as threads; `stopped` are told to stop."""

    def __init__(self, address: str, count: int, seconds: float | None = PATIENCE):
        self._at = partial(Rendezvous, address, count, seconds)
        self._threads = ThreadPoolExecutor(count)
        self.stopped: set[int] = set()
        self.notices: list[str] = []

    def start(self, index: int) -> Future:
        place = self._at(lambda: index in self.stopped, self.notices.append)
        return self._threads.submit(place.meet, index)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_go_once_all_are_there_and_the_address_is_free_again(address, order):
    run = Run(address, 3)
    started = []
    for index in order:
        assert not any(one.done() for one in started)
        started.append(run.start(index))
        time.sleep(0.1)
    assert [one.result(PATIENCE) for one in started] == [True] * 3
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        pass


def test_who_does_not_come_is_named_by_all(address):
    run = Run(address, 4, seconds=5)
    started = [run.start(index) for index in (0, 2)]
    for one in started:
        with pytest.raises(Absent, match=f"processes 1 and 3 of 4 did not come to {address} "):
            one.result(PATIENCE)


def test_so_is_process_0(address):
    with pytest.raises(Absent, match="process 0 of 2 did not come"):
        Run(address, 2, seconds=1).start(1).result(PATIENCE)


def test_a_process_that_leaves_again_is_not_there(address):
    run = Run(address, 3, seconds=5)
    first = run.start(0)
    host, _, port = address.rpartition(":")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        try:
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(b"triform process 1 of 3\n")
                time.sleep(0.5)
            break
        except ConnectionRefusedError:
            time.sleep(0.01)
    with pytest.raises(Absent, match="processes 1 and 2 of 3"):
        first.result(PATIENCE)


@pytest.mark.parametrize("stopped", [0, 1])
def test_if_one_is_told_to_stop_all_stop(address, stopped):
    run = Run(address, 3)
    started = [run.start(index) for index in (0, 1)]
    time.sleep(0.5)
    run.stopped.add(stopped)
    time.sleep(0.5)
    assert not any(one.done() for one in started)
    started.append(run.start(2))
    assert [one.result(PATIENCE) for one in started] == [False] * 3


@pytest.mark.parametrize("stopped", [0, 1])
def test_who_is_told_to_stop_does_not_wait_long_for_the_others(address, stopped, monkeypatch):
    monkeypatch.setattr(rendezvous, "_STOP_SECONDS", 0.5)
    run = Run(address, 3)
    run.stopped.add(stopped)
    assert not run.start(stopped).result(PATIENCE)


def test_strangers_and_processes_of_another_run_do_not_count(address):
    run = Run(address, 2)
    first = run.start(0)
    host, _, port = address.rpartition(":")
    others = b"triform process 1 of 3\n", b"triform process 7 of 2\n"
    for hello in (b"GET / HTTP/1.1\r\n\r\n", *others):
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                with socket.create_connection((host, int(port))) as connection:
                    connection.sendall(hello)
                    assert connection.recv(100) == b""
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
    assert not first.done()
    assert run.start(1).result(PATIENCE) and first.result(PATIENCE)


def test_process_0_says_for_whom_it_waits(address, monkeypatch):
    monkeypatch.setattr(rendezvous, "_NOTICE_SECONDS", 0.1)
    run = Run(address, 3, seconds=2)
    with pytest.raises(Absent):
        run.start(0).result(PATIENCE)
    assert run.notices[0] == f"waiting at {address} for processes 1 and 2 of 3"


def test_processes_are_named():
    assert name_processes([3]) == "process 3"
    assert name_processes({4, 1}) == "processes 1 and 4"
    assert name_processes([1, 2, 3]) == "processes 1, 2 and 3"
