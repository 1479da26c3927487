"""Keeps model states after prompts, so that a common beginning of prompts is read only once."""

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from model.layers.states import ModelState

SHORTEST_PREFIX = 16
"""Smallest number of tokens of a kept prefix. Reading a shorter one is as fast as a copy of its
state."""

PROMPTS_REMEMBERED = 64
"""Number of recent prompts that a new prompt is compared with, to find common prefixes."""

ENTRY_BYTES = 512
"""Approximate memory of an entry in addition to the arrays of its state, in bytes."""


class _Entry(NamedTuple):
    """A kept state, the number of tokens that lead to it, and its size in bytes."""

    length: int
    state: ModelState
    bytes: int


class PrefixCache:
    """Model states of one row, found by a digest of the tokens that lead to them.

    capacity: the largest total size of the states, in bytes. The least recently used ones are
        dropped first.

    States are used whole, because the state of a recurrence can't be cut to fewer tokens: a kept
    state helps only if all of its tokens are a prefix of the new prompt. `shared_length` returns
    after how many tokens a state should be kept, so that later prompts can use it. For this, the
    last `PROMPTS_REMEMBERED` prompts are remembered, with 4 bytes per token.
    """

    def __init__(self, capacity: int):
        self._capacity, self._bytes = capacity, 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lengths: Counter[int] = Counter()
        self._prompts: deque[NDArray[np.int32]] = deque(maxlen=PROMPTS_REMEMBERED)

    @property
    def bytes(self) -> int:
        """Return the total size of the kept states, in bytes."""
        return self._bytes

    def longest(self, ids: Sequence[int]) -> tuple[int, ModelState] | None:
        """Return the length and the state of the longest kept prefix of `ids`; None without one."""
        lengths = sorted(length for length in self._lengths if length <= len(ids))
        found = None
        for digest in _digests(ids, lengths):
            if digest in self._entries:
                found = digest
        if found is None:
            return None
        self._entries.move_to_end(found)
        length, state, _ = self._entries[found]
        return length, state

    def shared_length(self, ids: Sequence[int]) -> int:
        """Remember a prompt. Return the length of its longest common prefix with a remembered one;
        0 if that is too short to keep."""
        prompt = np.array(ids, np.int32)
        longest = max((_common(prompt, other) for other in self._prompts), default=0)
        self._prompts.append(prompt)
        return longest if longest >= SHORTEST_PREFIX else 0

    def wants(self, ids: Sequence[int]) -> bool:
        """Return whether the state after `ids` is long enough to keep, and not kept yet."""
        return len(ids) >= SHORTEST_PREFIX and _digest(ids) not in self._entries

    def add(self, ids: Sequence[int], state: ModelState) -> None:
        """Keep the state after `ids`, if `wants(ids)` and its size is within the capacity."""
        size = ENTRY_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if size > self._capacity or not self.wants(ids):
            return
        self._entries[_digest(ids)] = _Entry(len(ids), state, size)
        self._lengths[len(ids)] += 1
        self._bytes += size
        while self._bytes > self._capacity:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, oldest = self._entries.popitem(last=False)
        self._bytes -= oldest.bytes
        self._lengths[oldest.length] -= 1
        if not self._lengths[oldest.length]:
            del self._lengths[oldest.length]


def _digest(ids: Sequence[int]) -> bytes:
    (digest,) = _digests(ids, [len(ids)])
    return digest


def _digests(ids: Sequence[int], lengths: Sequence[int]) -> Iterator[bytes]:
    """Yield the digest of the first n tokens of `ids`, for each n of `lengths`, which must rise."""
    tokens, read = np.array(ids, np.int32), 0
    hashed = hashlib.blake2b(digest_size=32)
    for length in lengths:
        hashed.update(tokens[read:length].tobytes())
        read = length
        yield hashed.digest()


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Return the length of the common prefix of two arrays."""
    most = min(len(a), len(b))
    differs = a[:most] != b[:most]
    return int(differs.argmax()) if differs.any() else most
