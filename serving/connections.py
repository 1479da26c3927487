"""The open connections: how many there may be, and which one makes room for a new one."""

import enum
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from serving.log import log

OTHER_FILES = 256
"""Files that the process has open beside its connections, at most."""

UNREAD_SECONDS = 1.0
"""Time for which an answer may wait to be read before its connection can make room for another."""


class Stage(enum.IntEnum):
    """What a connection is doing. At the cap, those of the lowest stage are closed first."""

    LEAVING = 0
    """It is answered, and ends: what it still sends is thrown away."""
    WAITING = 1
    """It has not sent a complete header."""
    SENDING = 2
    """It has not sent the whole body of its request."""
    ANSWERED = 3
    """Its request is being answered: it is not closed for another one while its client reads."""


class Connection(Protocol):
    """An open connection."""

    def abort(self) -> None:
        """Close it at once."""
        ...


class Connections:
    """All open connections, at most `most`, by stage; of each stage, in the order they came to it.

    A connection beyond the cap takes the place of the one that has been longest in the lowest
    stage. A client that opens thousands of connections so keeps none of them, and a request that
    comes at once with its connection still gets through. An answer that is being read is not cut
    off; if there is nothing else to close, the one that has been unread longest is. clock: the time
    in seconds.
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
        """Add a new connection, and close others as long as there are too many. Returns False if
        that can't be: then the new one must be refused."""
        self.move(connection, Stage.WAITING)
        while len(self) > self.most:
            other = self._least_needed(connection)
            if other is None:
                return False
            self.remove(other)
            other.abort()
        return True

    def move(self, connection: Connection, stage: Stage) -> None:
        """Put a connection into a stage; in the same one it keeps its place."""
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
        """Note that a part of an answer waits until the client reads."""
        self._unread_since.setdefault(connection, self._clock())

    def set_read(self, connection: Connection) -> None:
        """Note that all that was written is sent."""
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
    """Raise the process's limit of open files so that `most` connections can be open. Returns how
    many can be: fewer if the system allows no more."""
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
