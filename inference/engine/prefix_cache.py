"""Keeps model states after prompts, so that a prompt with the same beginning is not read again."""

import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from model.layers.states import ModelState

SHORTEST_PREFIX = 16
"""Tokens of the shortest prefix that is kept: shorter ones are read as fast as they are copied."""

PROMPTS_REMEMBERED = 64

ENTRY_BYTES = 512
"""What an entry takes beside the arrays of its state, approximately."""


class _Entry(NamedTuple):
    """A state that is kept. length: number of tokens before it; bytes: its size."""

    length: int
    state: ModelState
    bytes: int


class PrefixCache:
    """The states of one row after some tokens, by the digest of these; at most `capacity` bytes.

    Beside them, the last prompts are remembered, with 4 bytes for each token. The states used least
    recently go first. States are whole: a recurrence's state can't be cut, so a kept prefix is
    found only if it is a prefix of the new prompt as a whole. `shared_length` tells where to keep a
    state, so that later prompts find it.
    """

    def __init__(self, capacity: int):
        self._capacity, self._bytes = capacity, 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._lengths: Counter[int] = Counter()
        self._prompts: deque[NDArray[np.int32]] = deque(maxlen=PROMPTS_REMEMBERED)

    @property
    def bytes(self) -> int:
        """Return the size of all entries."""
        return self._bytes

    def longest(self, ids: Sequence[int]) -> tuple[int, ModelState] | None:
        """Return the longest kept prefix of `ids`: its number of tokens and its state."""
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
        """Remember a prompt, and return the number of tokens that it shares with an earlier one
        from the beginning; 0 if these are too few to keep."""
        prompt = np.array(ids, np.int32)
        longest = max((_common(prompt, other) for other in self._prompts), default=0)
        self._prompts.append(prompt)
        return longest if longest >= SHORTEST_PREFIX else 0

    def wants(self, ids: Sequence[int]) -> bool:
        """Return whether the state after `ids` is worth keeping and not kept yet."""
        return len(ids) >= SHORTEST_PREFIX and _digest(ids) not in self._entries

    def add(self, ids: Sequence[int], state: ModelState) -> None:
        """Keep the state after `ids`, unless it is larger than the capacity."""
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
    """Yield the digests of the first tokens of `ids`, for each of the rising lengths."""
    tokens, read = np.array(ids, np.int32), 0
    hashed = hashlib.blake2b(digest_size=32)
    for length in lengths:
        hashed.update(tokens[read:length].tobytes())
        read = length
        yield hashed.digest()


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Return the number of equal first elements."""
    most = min(len(a), len(b))
    differs = a[:most] != b[:most]
    return int(differs.argmax()) if differs.any() else most
