"""Packs documents into windows of T targets, without cutting documents that fit into one window.

Each document has a separator before and after it. A document with at most T targets is one run; a
longer one is cut into runs of T targets and a shorter rest. Runs are packed by best fit decreasing
(Ding et al., 2024, arXiv:2404.10830): the longest first, each into the fullest window that still
has room for it. Every token except the separator before a document is a target exactly once. Runs
do not attend to each other. Unused positions are padding.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data.dataset import ExampleCodec, token_type

VERSION = 1
"""Part of the cache key. Increment it when this file makes different examples."""

BLOCK_TOKENS = 2**23
"""About this many tokens are packed at a time, all of them in memory."""

Run = Mapping[str, NDArray[Any]]
"""A sequence that is never cut by packing: arrays [positions] by field name, with `tokens`."""


@dataclass(frozen=True)
class PackedCodec(ExampleCodec):
    """Stores packed windows as records, and makes batches of them.

    length: the number of targets in a full window (T).
    marks_learnt: whether records have a field `learnt`, 1 for each target that counts in the loss
        and 0 for the others; if False, all targets count.
    """

    length: int
    vocabulary_size: int
    unit = "windows"
    marks_learnt: ClassVar[bool] = False

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a record: `tokens`, `targets`, `segments` and perhaps `learnt`, each [T]."""
        token = token_type(self.vocabulary_size)
        kinds = {"tokens": token, "targets": token}
        if self.marks_learnt:
            kinds["learnt"] = np.dtype("u1")
        kinds["segments"] = np.dtype("<u2" if self.length < 2**16 else "<i4")
        return np.dtype([(name, kind, (self.length,)) for name, kind in kinds.items()])

    def batch(self, windows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `tokens`, `targets`, `segments` int32 [B, T], `weights` float32 [B, T].

        `weights` is 1 for a target that counts in the loss, else 0. `segments` is the number of the
        run in the window, from 1, and 0 for padding.
        """
        names = ("tokens", "targets", "segments")
        batch = {name: windows[name].astype(np.int32) for name in names}
        counts = windows["learnt"] if self.marks_learnt else batch["segments"] > 0
        batch["weights"] = counts.astype(np.float32)
        return batch


@dataclass(frozen=True)
class BestFitCodec(PackedCodec):
    """Packs documents into windows, with the token `separator_id` before and after each."""

    separator_id: int

    def targets(self, tokens: int) -> int:
        """Return the number of targets of documents with `tokens` tokens in total.

        The separator before each document counts as one of its tokens.
        """
        return tokens  # minus each opening separator, plus each closing one

    def pack(self, pieces: Iterable[NDArray[np.int32]]) -> Iterator[NDArray[Any]]:
        """Pack documents; yield blocks of windows, of type `dtype`.

        pieces: int32 [tokens] each. A piece that begins with the separator starts a new document;
        any other piece continues the document.
        """
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
            count = (len(rest) - 1) // self.length  # cuts long documents early
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
    """Pack `runs` into windows of `length` positions; yield blocks of windows, of type `dtype`.

    A run has at most `length` positions. Each of its arrays is copied to the window's field of the
    same name. `segments` is the number of the run in the window, from 1, and 0 for padding.
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
    """Return the windows for a block of runs."""
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
    """Assign each of `lengths`, in order, to the fullest bin that still has room for it.

    If no bin has room, a new one of size `capacity` is opened. Returns the bin number of each
    length; bins are numbered from 0 in the order in which they are opened. Each length takes one
    binary search, and memory is proportional to the number of bins.
    """
    rooms: list[int] = []  # free room of open bins: distinct, sorted
    bins: dict[int, list[int]] = {}  # numbers of the open bins, by free room
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
