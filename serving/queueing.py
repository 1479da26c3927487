"""A queue and a bound that are fair between clients."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of several clients, which are taken in turns: one of each client that has some.

    A client that sends ten times as much as another one waits ten times as long.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._items.values()))

    def __iter__(self) -> Iterator[Item]:
        for items in self._items.values():
            yield from items

    def sizes(self) -> dict[str, int]:
        """Return the number of items of each client."""
        return {client: len(items) for client, items in self._items.items()}

    def add(self, client: str, item: Item) -> None:
        """Add an item behind those of the same client."""
        self._items.setdefault(client, deque()).append(item)

    def take(self, may_take: Callable[[str], bool] = lambda client: True) -> Item | None:
        """Remove and return the next item of a client whose turn may come; None if there is
        none."""
        client = next(filter(may_take, self._items), None)
        if client is None:
            return None
        items = self._items.pop(client)
        item = items.popleft()
        if items:
            self._items[client] = items  # behind all other clients
        return item

    def remove(self, client: str, item: Item) -> bool:
        """Remove an item. Returns whether it was there."""
        items = self._items.get(client, deque())
        if item not in items:
            return False
        items.remove(item)
        if not items:
            del self._items[client]
        return True


class Room:
    """A bound of what all clients together have of something.

    A client may have as much as then stays free: one that is alone the half, and however much some
    have, others find room.
    """

    def __init__(self, size: int):
        self._size = size
        self._taken: Counter[str] = Counter()
        self.total = 0

    def take(self, client: str, amount: int) -> bool:
        """Take some of the room for a client. Returns False, and takes none, if it would have too
        much."""
        if self._taken[client] + amount > self._size - self.total - amount:
            return False
        self._taken[client] += amount
        self.total += amount
        return True

    def give_back(self, client: str, amount: int) -> None:
        """Give back what a client took."""
        self.total -= amount
        self._taken[client] -= amount
        if not self._taken[client]:
            del self._taken[client]
