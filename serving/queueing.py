"""A queue and a bound that are fair between clients."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


MOST_DEBT = 8.0
"""Maximum debt of a client, in turns: it is served again soon after it sends less."""


class FairQueue(Generic[Item]):
    """A queue that takes turns between clients: one item of each client that has some.

    So a client that sends ten times as much as another one waits ten times as long. A client can be
    charged for work that is not in the queue, such as refused requests: it then skips turns.
    """

    def __init__(self) -> None:
        self._items: OrderedDict[str, deque[Item]] = OrderedDict()
        self._debts: dict[str, float] = {}

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

    def charge(self, client: str, turns: float) -> None:
        """Let a client that has items skip some turns, or a fraction of one, while others have
        items."""
        if client in self._items:
            self._debts[client] = min(self._debts.get(client, 0.0) + turns, MOST_DEBT)

    def take(self, may_take: Callable[[str], bool] = lambda client: True) -> Item | None:
        """Remove and return the next item; None if there is none. may_take: returns whether a
        client can be served now."""
        able = [client for client in self._items if may_take(client)]
        if not able:
            return None
        client = next((one for one in able if not self._pays(one)), able[0])
        items = self._items[client]
        item = items.popleft()
        self._settle(client)
        return item

    def _pays(self, client: str) -> bool:
        """Return whether a client in debt skips its turn; if so, reduce its debt and put it
        last."""
        if (debt := self._debts.get(client, 0.0)) < 1:
            return False
        self._debts[client] = debt - 1
        self._items.move_to_end(client)
        return True

    def _settle(self, client: str) -> None:
        """Put a client last; forget it if it has no items."""
        if self._items[client]:
            self._items.move_to_end(client)
        else:
            del self._items[client]
            self._debts.pop(client, None)

    def remove(self, client: str, item: Item) -> bool:
        """Remove an item. Returns whether it was there."""
        items = self._items.get(client, deque())
        if item not in items:
            return False
        items.remove(item)
        if not items:
            self._settle(client)
        return True


class Room:
    """Limits an amount, such as bytes, that all clients hold together.

    A client may hold at most as much as then stays free. So a client that is alone may hold half of
    `size`, and a new client always finds room.
    """

    def __init__(self, size: int):
        self._size = size
        self._taken: Counter[str] = Counter()
        self.total = 0

    def take(self, client: str, amount: int) -> bool:
        """Reserve an amount for a client. Returns False, and reserves nothing, if the client would
        hold too much."""
        if self._taken[client] + amount > self._size - self.total - amount:
            return False
        self._taken[client] += amount
        self.total += amount
        return True

    def give_back(self, client: str, amount: int) -> None:
        """Release an amount that a client has reserved."""
        self.total -= amount
        self._taken[client] -= amount
        if not self._taken[client]:
            del self._taken[client]
