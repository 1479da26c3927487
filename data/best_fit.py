"""Documents to windows of tokens that never cut a document which fits.

Of each document, between the separator that opens it and one that closes it, full windows are cut
while it is longer than one. What is left of it, or all of a short one, is a run of at most T
targets. Runs are put together best fit decreasing (Ding et al., 2024, arXiv:2404.10830): the
longest first, each into the window with the least room that is enough. So every token but each
document's first is a target exactly once, no run sees another, and what no run fits is padding.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data.dataset import ExampleCodec, token_type

VERSION = 1
"""A part of the cache key: raised when this file makes other examples."""

BLOCK_TOKENS = 2**23
"""Tokens of the runs that are packed together: so many are in memory."""

Run = Mapping[str, NDArray[Any]]
"""A stretch that goes into one window: arrays [positions] by field, `tokens` among them."""


@dataclass(frozen=True)
class PackedCodec(ExampleCodec):
    """Stores windows of runs, and batches them. length: targets in a full window (T).

    marks_learnt: whether a field `learnt` says which targets count; else all do.
    """

    length: int
    vocabulary_size: int
    unit = "windows"
    marks_learnt: ClassVar[bool] = False

    @property
    def dtype(self) -> np.dtype:
        """A stored window: its tokens, their targets, and the run that each belongs to."""
        token = token_type(self.vocabulary_size)
        kinds = {"tokens": token, "targets": token}
        if self.marks_learnt:
            kinds["learnt"] = np.dtype("u1")
        kinds["segments"] = np.dtype("<u2" if self.length < 2**16 else "<i4")
        return np.dtype([(name, kind, (self.length,)) for name, kind in kinds.items()])

    def batch(self, windows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `tokens`, `targets`, `segments` int32 [B, T], `weights` float32 [B, T]: 1 for a
        target that counts, else 0.

        The runs of a window are numbered from 1; 0 where there is nothing.
        """
        names = ("tokens", "targets", "segments")
        batch = {name: windows[name].astype(np.int32) for name in names}
        counts = windows["learnt"] if self.marks_learnt else batch["segments"] > 0
        batch["weights"] = counts.astype(np.float32)
        return batch


@dataclass(frozen=True)
class BestFitCodec(PackedCodec):
    """Packs documents, which the token `separator_id` opens and closes."""

    separator_id: int

    def targets(self, tokens: int) -> int:
        """Return the targets of documents with `tokens`, opening separators included."""
        return tokens  # all but what opens a document, and what closes it

    def pack(self, pieces: Iterable[NDArray[np.int32]]) -> Iterator[NDArray[Any]]:
        """Return the windows of the documents that `pieces`, int32 [tokens] each, are joined to."""
        runs = ({"tokens": run[:-1], "targets": run[1:]} for run in self._runs(pieces))
        return pack(runs, self.dtype, self.length)

    def _runs(self, pieces: Iterable[NDArray[np.int32]]) -> Iterator[NDArray[np.int32]]:
        """Yield runs of 2 to T + 1 tokens: the targets, and the token before them."""
        separator = np.array([self.separator_id], np.int32)
        rest = np.empty(0, np.int32)
        for piece in pieces:
            if piece.size and piece[0] == self.separator_id and rest.size:
                yield from self._cut(np.concatenate([rest, separator]))
                rest = piece
            else:
                rest = np.concatenate([rest, piece])
            count = (len(rest) - 1) // self.length  # a long document comes in many pieces
            if count > 1:
                stop = (count - 1) * self.length
                yield from self._cut(rest[: stop + 1])
                rest = rest[stop:]
        if rest.size:
            yield from self._cut(np.concatenate([rest, separator]))

    def _cut(self, document: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
        for start in range(0, len(document) - 1, self.length):
            yield document[start : start + self.length + 1]


def pack(runs: Iterable[Run], dtype: np.dtype, length: int) -> Iterator[NDArray[Any]]:
    """Yield windows of `dtype` that hold `runs`, each of at most `length` positions, whole.

    Every field of a run stands in the window's field of that name, and in `segments` the number
    of the run in its window, from 1; 0 where there is nothing.
    """
    block, held = [], 0
    for run in runs:
        block.append(run)
        held += _positions(run)
        if held >= BLOCK_TOKENS:
            yield _fill(block, dtype, length)
            block, held = [], 0
    if block:
        yield _fill(block, dtype, length)


def _fill(runs: Sequence[Run], dtype: np.dtype, length: int) -> NDArray[Any]:
    """Return the windows of a block of runs."""
    lengths = np.array([_positions(run) for run in runs])
    order = np.argsort(-lengths, kind="stable")
    places = best_fit(lengths[order].tolist(), length)
    windows = np.zeros(max(places) + 1, dtype)
    columns = {name: windows[name] for name in dtype.names or ()}
    used, count = [0] * len(windows), [0] * len(windows)
    for place, number in zip(places, order.tolist(), strict=True):
        start = used[place]
        used[place] = stop = start + int(lengths[number])
        count[place] += 1
        for name, values in runs[number].items():
            columns[name][place, start:stop] = values
        columns["segments"][place, start:stop] = count[place]
    return windows


def _positions(run: Run) -> int:
    return len(run["tokens"])


def best_fit(lengths: Iterable[int], capacity: int) -> list[int]:
    """Return a bin for each of `lengths`, in their order: the one with the least room that is
    enough.

    Bins are numbered from 0 as they are opened. O(log capacity) each, and as much memory as bins.
    """
    rooms: list[int] = []  # that there are, each once, sorted
    bins: dict[int, list[int]] = {}  # with this much room
    places, opened = [], 0
    for length in lengths:
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            room, place, opened = capacity, opened, opened + 1
        else:
            room = rooms[at]
            place = bins[room].pop()
            if not bins[room]:
                del bins[room], rooms[at]
        places.append(place)
        room -= length
        if room in bins:
            bins[room].append(place)
        elif room:
            bisect.insort(rooms, room)
            bins[room] = [place]
    return places
