"""The queue of answers that wait for the model: bounded, and fair between clients."""

from collections import OrderedDict, deque
from collections.abc import Iterator
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

    def add(self, client: str, item: Item) -> None:
        """Add an item behind those of the same client."""
        self._items.setdefault(client, deque()).append(item)

    def take(self) -> Item | None:
        """Remove and return the next item; None if there is none."""
        if not self._items:
            return None
        client, items = self._items.popitem(last=False)
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
