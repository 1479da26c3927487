"""How preparation tells how far it is."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[str, int, int, str], None]
"""Called with what is done ("packing train"), how much is done, of how much, and the unit.

A stage ends when as much is done as there is.
"""

Item = TypeVar("Item")


def silent(stage: str, done: int, total: int, unit: str) -> None:
    """Tells nothing."""


def track(
    items: Iterable[Item], progress: Progress, stage: str, total: int, unit: str
) -> Iterator[Item]:
    """`items`, of which there are at most `total`, told one by one as they are taken."""
    done = 0
    for item in items:
        progress(stage, done, max(total, done + 1), unit)
        yield item
        done += 1
    progress(stage, done, done, unit)
