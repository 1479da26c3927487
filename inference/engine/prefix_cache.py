"""Keeps model states after prompts, so that a prompt with the same beginning is not read again."""

from collections import OrderedDict, deque
from collections.abc import Sequence

import jax

from model.layers.states import ModelState

SHORTEST_PREFIX = 16
"""Tokens of the shortest prefix that is kept: shorter ones are read as fast as they are copied."""

PROMPTS_REMEMBERED = 64


class PrefixCache:
    """The states of one row after some tokens, by these tokens; at most `capacity` bytes.

    The states used least recently go first. States are whole: a recurrence's state can't be cut, so
    a kept prefix is found only if it is a prefix of the new prompt as a whole. `shared_length`
    tells where to keep a state, so that later prompts find it.
    """

    def __init__(self, capacity: int):
        self._capacity, self._bytes = capacity, 0
        self._states: OrderedDict[tuple[int, ...], tuple[ModelState, int]] = OrderedDict()
        self._prompts: deque[Sequence[int]] = deque(maxlen=PROMPTS_REMEMBERED)

    @property
    def bytes(self) -> int:
        """Return the size of all states kept."""
        return self._bytes

    def longest(self, ids: Sequence[int]) -> tuple[int, ModelState] | None:
        """Return the longest kept prefix of `ids`: its number of tokens and its state."""
        found: tuple[int, ...] = ()
        for tokens in self._states:
            if len(found) < len(tokens) <= len(ids) and tokens == tuple(ids[: len(tokens)]):
                found = tokens
        if not found:
            return None
        self._states.move_to_end(found)
        return len(found), self._states[found][0]

    def shared_length(self, ids: Sequence[int]) -> int:
        """Remember a prompt, and return the number of tokens that it shares with an earlier one
        from the beginning; 0 if these are too few to keep."""
        longest = max((_common(ids, other) for other in self._prompts), default=0)
        self._prompts.append(tuple(ids))
        return longest if longest >= SHORTEST_PREFIX else 0

    def wants(self, ids: Sequence[int]) -> bool:
        """Return whether the state after `ids` is worth keeping and not kept yet."""
        return len(ids) >= SHORTEST_PREFIX and tuple(ids) not in self._states

    def add(self, ids: Sequence[int], state: ModelState) -> None:
        """Keep the state after `ids`, unless it is larger than the capacity."""
        tokens = tuple(ids)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if size > self._capacity or not self.wants(ids):
            return
        self._states[tokens] = (state, size)
        self._bytes += size
        while self._bytes > self._capacity:
            _, (_, oldest) = self._states.popitem(last=False)
            self._bytes -= oldest


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of equal first elements."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count
