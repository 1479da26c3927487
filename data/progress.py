"""Reports the progress of preparation."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

Progress = Callable[[str, int, int, str], None]
"""A callback, called with the stage ("packing train"), the amount done, the total, and the unit.

A stage is complete when the amount done equals the total.
"""

Reached = Callable[[int], None]
"""A callback, called with the number of bytes of a file that are read so far."""

Item = TypeVar("Item")

AT_ONCE = 512  # items that are read between two reports

DELAY_SECONDS = 2.0
"""What is read at every start is reported only if it takes longer than this."""

_MEGABYTE = 10**6


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Ignore all progress."""


def unwatched(position: int) -> None:
    """Ignore how far a file is read."""


def delayed(progress: Progress) -> Progress:
    """Return a callback that reports a stage from `DELAY_SECONDS` after this call on, and nothing
    of one that is complete by then."""
    began, is_shown = time.monotonic(), False

    def report(stage: str, done: int, total: int, unit: str) -> None:
        nonlocal is_shown
        is_shown |= done < total and time.monotonic() - began >= DELAY_SECONDS
        if is_shown:
            progress(stage, done, total, unit)

    return report


def track(
    items: Iterable[Item],
    progress: Progress,
    stage: str,
    total: int,
    unit: str,
    *,
    is_estimate: bool = False,
) -> Iterator[Item]:
    """Yield `items`, and report progress. The parameters are those of `in_blocks`."""
    blocks = in_blocks(items, AT_ONCE, progress, stage, total, unit, is_estimate=is_estimate)
    return chain.from_iterable(blocks)


def in_blocks(
    items: Iterable[Item],
    size: int,
    progress: Progress = silent,
    stage: str = "",
    total: int = 0,
    unit: str = "",
    *,
    is_estimate: bool = False,
) -> Iterator[list[Item]]:
    """Yield `items` in lists of `size`, and report progress before each list is read.

    total: the number of items, or an estimate.
    stage, unit: as in `Progress`.
    is_estimate: whether to say, until the end, that the total is an estimate.
    """
    iterator, done = iter(items), 0
    so_far = f"{unit} (estimated)" if is_estimate else unit
    while True:
        if done != total:  # it may be the end, or the total was too low
            progress(stage, done, max(total, done + 1), so_far)
        block = [*islice(iterator, size)]
        if not block:
            break
        yield block
        done += len(block)
    progress(stage, done, done, unit)


class FileReading:
    """Reports how much is read of files that are read one after the other, in megabytes; nothing if
    it is quick, as by `delayed`.

    stage: as in `Progress`.
    total: the bytes of all files, or fewer.
    """

    def __init__(self, progress: Progress, stage: str, total: int):
        self._progress, self._stage, self._total = delayed(progress), stage, total
        self._before = 0  # bytes of the files that are read

    def read(self, path: Path, find: Callable[[Path, Reached], Any]) -> Any:
        """Return `find(path, reached)`. It may call `reached` with the number of bytes that it has
        read."""
        value = find(path, lambda position: self._report(self._before + position))
        self._before += file_size(path)
        self._report(self._before)
        return value

    def end(self) -> None:
        """Report that all files are read."""
        total = self._megabytes(self._before)
        self._progress(self._stage, total, total, "MB")

    def _report(self, done: int) -> None:
        total = self._megabytes(done)
        self._progress(self._stage, min(done // _MEGABYTE, total - 1), total, "MB")

    def _megabytes(self, done: int) -> int:
        return max(1, math.ceil(max(self._total, done) / _MEGABYTE))


def file_size(path: Path) -> int:
    """Return the number of bytes of a file; 0 if it is missing."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
