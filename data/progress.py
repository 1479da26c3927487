"""Reports the progress of preparation."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

Progress = Callable[[str, int, int, str], None]
"""A callback, called with the stage ("packing train"), the amount done, the total, and the unit.

A stage is complete when the amount done equals the total.
"""

Item = TypeVar("Item")

AT_ONCE = 512  # items that are read between two reports


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Ignore all progress."""


def track(
    items: Iterable[Item], progress: Progress, stage: str, total: int, unit: str
) -> Iterator[Item]:
    """Yield `items`, and report progress. The parameters are those of `in_blocks`."""
    return chain.from_iterable(in_blocks(items, AT_ONCE, progress, stage, total, unit))


def in_blocks(
    items: Iterable[Item],
    size: int,
    progress: Progress = silent,
    stage: str = "",
    total: int = 0,
    unit: str = "",
) -> Iterator[list[Item]]:
    """Yield `items` in lists of `size`, and report progress before each list is read.

    total: the approximate number of items.
    stage, unit: as in `Progress`.
    """
    iterator, done = iter(items), 0
    while True:
        progress(stage, done, max(total, done + 1), unit)
        block = [*islice(iterator, size)]
        if not block:
            break
        yield block
        done += len(block)
    progress(stage, done, done, unit)
