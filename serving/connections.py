"""The open connections: how many there may be, and which one makes room for a new one."""

import enum
import resource
from collections import OrderedDict
from typing import Protocol

from serving.log import log

OTHER_FILES = 256
"""Files that the process has open beside its connections, at most."""


class Stage(enum.IntEnum):
    """What a connection is doing. At the cap, those of the lowest stage are closed first."""

    LEAVING = 0
    """It is answered, and what it still sends is thrown away."""
    WAITING = 1
    """It has not sent a complete header."""
    SENDING = 2
    """It has not sent the whole body of its request."""
    ANSWERED = 3
    """Its request is being answered: it is never closed for another one."""


class Connection(Protocol):
    """An open connection."""

    @property
    def has_unsent(self) -> bool:
        """Return whether a part of an answer waits until the client reads."""
        ...

    def abort(self) -> None:
        """Close it at once."""
        ...


class Connections:
    """All open connections, at most `most`, by stage; of each stage, in the order they came to it.

    A connection beyond the cap takes the place of the one that has been longest in the lowest
    stage. A client that opens thousands of connections so keeps none of them, and a request that
    comes at once with its connection still gets through.
    """

    def __init__(self, most: int):
        self.most = most
        self._members: dict[Stage, OrderedDict[Connection, None]] = {
            stage: OrderedDict() for stage in Stage
        }
        self._stages: dict[Connection, Stage] = {}

    def __len__(self) -> int:
        return len(self._stages)

    def stage(self, connection: Connection) -> Stage | None:
        """Return the stage of a connection; None if it is closed."""
        return self._stages.get(connection)

    def add(self, connection: Connection) -> bool:
        """Add a new connection, and close another one if there are too many. Returns False if that
        can't be: then the new one must be refused."""
        self.move(connection, Stage.WAITING)
        if len(self) <= self.most:
            return True
        other = self._least_needed(connection)
        if other is None:
            return False
        self.remove(other)
        other.abort()
        return True

    def move(self, connection: Connection, stage: Stage) -> None:
        """Put a connection into a stage; in the same one it keeps its place."""
        if self._stages.get(connection) is not stage:
            self.remove(connection)
            self._stages[connection] = stage
            self._members[stage][connection] = None

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        stage = self._stages.pop(connection, None)
        if stage is not None:
            del self._members[stage][connection]

    def _least_needed(self, new: Connection) -> Connection | None:
        for stage in (Stage.LEAVING, Stage.WAITING, Stage.SENDING):
            for connection in self._members[stage]:
                is_needed = connection.has_unsent and stage is not Stage.LEAVING
                if connection is not new and not is_needed:
                    return connection
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
