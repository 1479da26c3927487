"""The processes of a run meet before JAX joins them, so that one that never comes is named.

JAX itself aborts when its time is over, and names nobody. Process 0 listens at the address that
JAX's coordinator will use. Each other process connects, says its number, and waits for the answer,
which is the same for all: `go`, `stop` (one of them was told to stop), or who is missing.
"""

import contextlib
import math
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from configs.errors import UsageError

_GO, _STOP = "go", "stop"
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_NOTICE_SECONDS = 60.0
_STOP_SECONDS = 30.0
"""How long a process that was told to stop waits for the others, to stop with them."""


class Absent(UsageError):
    """Raised if processes of the run did not come; the message names them."""


def name_processes(numbers: Iterable[int]) -> str:
    """Return "process 1", "processes 1 and 3" or "processes 1, 3 and 4"."""
    *others, last = map(str, sorted(numbers))
    return f"processes {', '.join(others)} and {last}" if others else f"process {last}"


@dataclass(frozen=True)
class Rendezvous:
    """Where the `count` processes of a run meet, and for how long they wait.

    address: host:port of process 0, where nothing listens yet.
    seconds: how long process 0 waits for the others, and each of them for process 0; None: for
        ever.
    is_stopped: returns whether this process was told to stop.
    notify: process 0 calls it every minute with a message that names whom it waits for.
    """

    address: str
    count: int
    seconds: float | None
    is_stopped: Callable[[], bool]
    notify: Callable[[str], None]

    def meet(self, index: int) -> bool:
        """Wait until all processes are there. Return False if one of them was told to stop
        meanwhile; the same in all processes.

        index: the number of this process.

        Raises `Absent` if a process does not come in time.
        """
        answer = self._come(index) if index else self._receive()
        if answer not in (_GO, _STOP):
            raise Absent(answer)
        return answer == _GO

    def _receive(self) -> str:
        """Wait as process 0 for the others; give all of them the answer, and return it."""
        present: dict[int, socket.socket] = {}
        with contextlib.ExitStack() as connections:
            with self._listening() as server, selectors.DefaultSelector() as selector:
                selector.register(server, selectors.EVENT_READ)
                answer = self._gather(server, selector, present, connections)
            # Nothing listens any more: the address is JAX's.
            for connection in present.values():
                with contextlib.suppress(OSError):
                    connection.settimeout(_CONNECT_SECONDS)
                    connection.sendall(answer.encode())
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1)  # Returns when the other side has closed.
        return answer

    def _gather(
        self,
        server: socket.socket,
        selector: selectors.BaseSelector,
        present: dict[int, socket.socket],
        connections: contextlib.ExitStack,
    ) -> str:
        """Accept connections until there is an answer; return it. Those present are in `present`,
        by their number."""
        deadline, notice_at = self._deadline(), time.monotonic() + _NOTICE_SECONDS
        is_stopped = False
        while len(present) < self.count - 1:
            missing = name_processes(set(range(1, self.count)) - present.keys())
            if not is_stopped and self.is_stopped():
                is_stopped, deadline = True, time.monotonic() + _STOP_SECONDS
            if time.monotonic() > deadline:
                return _STOP if is_stopped else self._absence(missing)
            if time.monotonic() > notice_at:
                self.notify(f"waiting at {self.address} for {missing} of {self.count}")
                notice_at += _NOTICE_SECONDS
            for key, _ in selector.select(_POLL_SECONDS):
                if key.data is None:
                    connection = connections.enter_context(server.accept()[0])
                    selector.register(connection, selectors.EVENT_READ, data=connection)
                    continue
                text = _read(key.data)
                if text.endswith(_STOP):
                    is_stopped, deadline = True, time.monotonic() + _STOP_SECONDS
                if (number := self._number(text)) is not None:
                    present[number] = key.data
                elif text != _STOP:  # It left, or is none of ours.
                    selector.unregister(key.data)
                    key.data.close()
                    for number in [n for n, one in present.items() if one is key.data]:
                        del present[number]
        return _STOP if is_stopped or self.is_stopped() else _GO

    def _come(self, index: int) -> str:
        """Say to process 0 that this process is there, and return its answer."""
        host, _, port = self.address.rpartition(":")
        place, deadline = (host.strip("[]"), int(port)), self._deadline()
        is_stopped = False
        while True:
            with (
                contextlib.suppress(OSError),  # Process 0 does not listen yet, or broke off.
                socket.create_connection(place, timeout=_CONNECT_SECONDS) as connection,
            ):
                connection.sendall(f"triform process {index} of {self.count}\n".encode())
                if answer := self._await_answer(connection):
                    return answer
            if not is_stopped and self.is_stopped():
                is_stopped, deadline = True, time.monotonic() + _STOP_SECONDS
            if time.monotonic() > deadline:
                return _STOP if is_stopped else self._absence("process 0")
            time.sleep(_POLL_SECONDS)

    def _await_answer(self, connection: socket.socket) -> str:
        """Return the answer of process 0; "" if it broke off or stays silent for too long."""
        deadline = self._deadline() + _CONNECT_SECONDS  # of process 0, which may have come later
        connection.settimeout(_POLL_SECONDS)
        answer, has_said_stop = b"", False
        while time.monotonic() < deadline:
            try:
                piece = connection.recv(4096)
            except TimeoutError:
                if self.is_stopped() and not has_said_stop:
                    connection.sendall(_STOP.encode())
                    has_said_stop = True
                continue
            if not piece:
                break
            answer += piece
        return answer.decode(errors="replace")

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        """Yield a socket that listens at the port of the address, once the port is free."""
        port, deadline = int(self.address.rpartition(":")[2]), self._deadline()
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        while True:
            try:
                server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
                break
            except OSError as error:
                if self.is_stopped() or time.monotonic() > deadline:
                    text = f"process 0 can't listen at {self.address}: {error.strerror}"
                    raise UsageError(text) from None
                time.sleep(_POLL_SECONDS)
        with server:
            yield server

    def _deadline(self) -> float:
        return math.inf if self.seconds is None else time.monotonic() + self.seconds

    def _absence(self, missing: str) -> str:
        return f"{missing} of {self.count} did not come to {self.address} within {self.seconds:g} s"

    def _number(self, text: str) -> int | None:
        """Return the number of the process that says hello; None if it is none of this run."""
        hello = re.match(r"triform process (\d+) of (\d+)\n", text)
        if hello is None or int(hello[2]) != self.count or not 0 < int(hello[1]) < self.count:
            return None
        return int(hello[1])


def _read(connection: socket.socket) -> str:
    with contextlib.suppress(OSError):
        connection.settimeout(_POLL_SECONDS)
        return connection.recv(64).decode(errors="replace")
    return ""
