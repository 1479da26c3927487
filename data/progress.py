"""Reports the progress of preparation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from data.sources.source import RawExamples

Progress = Callable[[str, int, int, str], None]
"""A callback, called with the stage ("packing train"), the amount done, the total, and the unit.

A stage is complete when the amount done equals the total.
"""

Item = TypeVar("Item")


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Ignore all progress."""


def track(
    items: Iterable[Item], progress: Progress, stage: str, total: int, unit: str
) -> Iterator[Item]:
    """Yield `items`, and report progress before each.

    total: the approximate number of items.
    stage, unit: as in `Progress`.
    """
    done = 0
    for item in items:
        progress(stage, done, max(total, done + 1), unit)
        yield item
        done += 1
    progress(stage, done, done, unit)


def read_blocks(
    examples: RawExamples,
    size: int,
    progress: Progress = silent,
    stage: str = "",
    unit: str = "",
) -> Iterator[Sequence[dict[str, Any]]]:
    """Yield all `examples` in order, in lists of `size`, and report progress before each list.

    stage, unit: as in `Progress`.
    """
    total = len(examples)
    for start in range(0, total, size):
        progress(stage, start, total, unit)
        yield examples.__getitems__([*range(start, min(start + size, total))])
    progress(stage, total, total, unit)
