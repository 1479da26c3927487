"""Limits the number of open connections, and picks the one to close when there are too many."""

import enum
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from serving.log import log

OTHER_FILES = 256
"""Upper bound of the file descriptors that the process uses for anything but connections."""

UNREAD_SECONDS = 1.0
"""Time for which an answer must have been unread before its connection may be closed for a new
one."""


class Stage(enum.IntEnum):
    """The stage of a connection. When there are too many, those in the lowest stage are closed
    first."""

    LEAVING = 0
    """Its last answer is written, and it is being closed: what it still sends is discarded."""
    WAITING = 1
    """It has not sent a complete header."""
    SENDING = 2
    """It has not sent the complete body of its request."""
    ANSWERED = 3
    """Its request is being answered: as long as its client reads, it is not closed for a new
    one."""


class Connection(Protocol):
    """An open connection."""

    def abort(self) -> None:
        """Close the connection at once."""
        ...


class Connections:
    """The open connections, at most `most`, by stage; within a stage, in the order in which they
    entered it.

    A connection beyond the limit replaces the one that has been in the lowest stage for longest. So
    a client that opens thousands of idle connections loses them again, while a request that is sent
    as soon as its connection is open gets through. A connection whose client reads its answer is
    never closed for a new one. If there is no other, the one whose answer has been unread for
    longest is closed, if that is at least `UNREAD_SECONDS`. clock: returns the time in seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic):
        self.most, self._clock = most, clock
        self._members: dict[Stage, OrderedDict[Connection, None]] = {
            stage: OrderedDict() for stage in Stage
        }
        self._stages: dict[Connection, Stage] = {}
        self._unread_since: OrderedDict[Connection, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stages)

    def stage(self, connection: Connection) -> Stage | None:
        """Return the stage of a connection; None if it is closed."""
        return self._stages.get(connection)

    def add(self, connection: Connection) -> bool:
        """Add a new connection, and close others until there are at most `most`. Returns False if
        no other connection may be closed: the new one must then be refused."""
        self.move(connection, Stage.WAITING)
        while len(self) > self.most:
            other = self._least_needed(connection)
            if other is None:
                return False
            self.remove(other)
            other.abort()
        return True

    def move(self, connection: Connection, stage: Stage) -> None:
        """Put a connection last in a stage. If it is in that stage already, it keeps its place."""
        before = self._stages.get(connection)
        if before is not stage:
            if before is not None:
                del self._members[before][connection]
            self._stages[connection] = stage
            self._members[stage][connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.set_read(connection)
        stage = self._stages.pop(connection, None)
        if stage is not None:
            del self._members[stage][connection]

    def set_unread(self, connection: Connection) -> None:
        """Note that a part of an answer is unsent because the client does not read."""
        self._unread_since.setdefault(connection, self._clock())

    def set_read(self, connection: Connection) -> None:
        """Note that everything that was written has been sent."""
        self._unread_since.pop(connection, None)

    def _least_needed(self, new: Connection) -> Connection | None:
        for stage in (Stage.LEAVING, Stage.WAITING, Stage.SENDING):
            for connection in self._members[stage]:
                if connection is not new and connection not in self._unread_since:
                    return connection
        for connection, since in self._unread_since.items():
            if self._clock() - since >= UNREAD_SECONDS:
                return connection
            break
        return None


def allow_connections(most: int) -> int:
    """Raise the process's limit of open files so that `most` connections can be open. Returns the
    number that can be open, which is lower if the system's hard limit is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = most + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    possible = max(needed - OTHER_FILES, needed // 2, 1)
    if possible < most:
        log("fewer connections than serve.max_connections: the limit of open files", most=possible)
    return min(possible, most)
