"""Progress of preparation, reported as it goes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from data.sources.source import RawExamples

Progress = Callable[[str, int, int, str], None]
"""Called with the stage ("packing train"), how much is done, of how much, and the unit.

A stage ends when as much is done as there is.
"""

Item = TypeVar("Item")


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Report nothing."""


def track(
    items: Iterable[Item], progress: Progress, stage: str, total: int, unit: str
) -> Iterator[Item]:
    """Yield `items`, of which there are at most `total`, and report each as it is taken."""
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
    """Yield all `examples` in order, `size` at once, and report how far it is before each block."""
    total = len(examples)
    for start in range(0, total, size):
        progress(stage, start, total, unit)
        yield examples.__getitems__([*range(start, min(start + size, total))])
    progress(stage, total, total, unit)
