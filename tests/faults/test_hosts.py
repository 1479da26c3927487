"""Two processes are one run: they stop together, and none waits for ever for the other."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.verbs import metrics
from tests.faults.cases import (
    HANG_SECONDS,
    KILLED,
    STALLED,
    STEPS,
    STOPPED,
    Host,
    two_places,
)
from tests.selection import few_of

HANGING = {"train__hang_seconds": str(HANG_SECONDS)}


def on_process(number: int, fault: str) -> list[str]:
    return [fault if one == number else "" for one in range(2)]


def statuses(number: int, its: int, of_other: int) -> list[int]:
    return [its if one == number else of_other for one in range(2)]


def goes_on(case) -> None:
    """Resumes the run twice, to its end."""
    case.run_on_two_hosts(["step:11=term", ""], expect=[STOPPED, STOPPED])
    case.run_on_two_hosts()
    assert case.saved == STEPS
    assert list(metrics(case.workdir)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("number", few_of([0, 1], 1))
@pytest.mark.parametrize("point", few_of(["meeting", "joined", "compiling", "step:5", "saving:6"]))
def test_a_signal_to_one_process_stops_both_at_the_same_step(case, number, point):
    case.run_on_two_hosts(on_process(number, f"{point}=term"), expect=[STOPPED, STOPPED])
    assert case.saved in ([5, 6, 7] if point in ("step:5", "saving:6") else [0])
    goes_on(case)


@pytest.mark.parametrize("number", few_of([0, 1], 1))
def test_a_process_that_never_comes_is_named(case, number):
    errors = case.run_on_two_hosts(
        on_process(number, "meeting=kill"),
        expect=statuses(number, KILLED, STALLED),
        train__hang_seconds="10",
    )
    assert f"process {number} of 2 did not come to 127.0.0.1:" in errors[1 - number]


@pytest.mark.parametrize("number", few_of([0, 1]))
def test_a_process_that_stands_still_is_named(case, number):
    errors = case.run_on_two_hosts(
        on_process(number, "step:5=stop"), expect=statuses(number, KILLED, STALLED), **HANGING
    )
    assert f"process {number} " in errors[1 - number] and "not answer" in errors[1 - number]
    goes_on(case)


@pytest.mark.parametrize("number", few_of([0, 1]))
@pytest.mark.parametrize("point", few_of(["compiling", "step:5"]))
def test_a_killed_process_is_named(case, number, point):
    faults = on_process(number, f"{point}=kill")
    errors = case.run_on_two_hosts(faults, expect=statuses(number, KILLED, STALLED), **HANGING)
    assert f"process {number} of 2 does not answer" in errors[1 - number]
    goes_on(case)


class Network:
    """Two hosts in networks of their own, with a router between them.

    cut: a shell command that makes the router drop all that they send to each other, in silence.
    """

    def __init__(self, name: str):
        self._names = [f"{name}{host}" for host in ("one", "two", "router")]
        self._made: list[str] = []

    def make(self) -> None:
        """Makes the networks. Raises OSError where that is not possible."""
        one, two, router = self._names
        for namespace in self._names:
            _ip(f"netns add {namespace}")
            self._made.append(namespace)
            _ip(f"-n {namespace} link set lo up")
        for number, namespace in enumerate((one, two), start=1):
            _ip(f"link add eth0 netns {namespace} type veth peer name eth{number} netns {router}")
            for place, device, last in ((namespace, "eth0", 2), (router, f"eth{number}", 1)):
                _ip(f"-n {place} address add 10.213.{number}.{last}/24 dev {device}")
                _ip(f"-n {place} link set {device} up")
            _ip(f"-n {namespace} route add default via 10.213.{number}.1")
            # Gloo looks up the name of its host, and tells the other one the address.
            hosts = Path("/etc/netns") / namespace / "hosts"
            hosts.parent.mkdir(parents=True)
            named = f"10.213.{number}.2 {socket.gethostname()}"
            hosts.write_text(f"127.0.0.1 localhost\n{named}\n")
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _run("ip", "netns", "exec", router, "sh", "-c", forward)
        places = two_places("10.213.1.2:9999")
        self.hosts = [
            Host(place, ("ip", "netns", "exec", namespace))
            for place, namespace in zip(places, (one, two), strict=True)
        ]
        self.cut = "; ".join(
            f"ip -n {router} route add blackhole 10.213.{number}.2/32" for number in (1, 2)
        )

    def remove(self) -> None:
        for namespace in self._made:
            _ip(f"netns delete {namespace}")
            shutil.rmtree(Path("/etc/netns") / namespace, ignore_errors=True)


def _ip(arguments: str) -> None:
    _run("ip", *arguments.split())


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("no networks can be made: root and ip are needed")
    made = Network(f"fault{os.getpid()}")
    try:
        made.make()
        yield made
    except OSError as why:
        pytest.skip(f"no networks can be made: {why}")
    finally:
        made.remove()


@pytest.mark.full
def test_hosts_that_can_not_reach_each_other_end_and_name_each_other(case, network):
    case.variables["FAULT_COMMAND"] = network.cut
    errors = case.run_on_two_hosts(
        ["", "step:5=shell"], expect=[STALLED, STALLED], hosts=network.hosts, **HANGING
    )
    assert "process 1 of 2 does not answer" in errors[0]
    assert "process 0 of 2 does not answer" in errors[1]
    case.say("each of the two named the other one")
    goes_on(case)
