"""Answers about many files: a few are read at a time, and one that can't be read takes no other
one's answer away."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Content = TypeVar("Content")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Unreadable:
    """A file that no answer can be given about, and why."""

    input: str
    reason: str


def answer_files(
    paths: Sequence[str],
    decode: Callable[[bytes], Content],
    answer: Callable[[Sequence[str], Sequence[Content]], Sequence[Found]],
    at_once: int,
) -> Iterator[Found | Unreadable]:
    """What `answer` makes of each file that `decode` can read, in order; `Unreadable` for the rest.

    `decode` raises ValueError for what it can't read. `answer` is given the names and contents of
    at most `at_once` files, so that not more of them are in memory.
    """
    for start in range(0, len(paths), at_once):
        part = paths[start : start + at_once]
        contents = [_read(path, decode) for path in part]
        pairs = zip(part, contents, strict=True)
        readable = [pair for pair in pairs if not isinstance(pair[1], Unreadable)]
        found = iter(answer(*zip(*readable, strict=True)) if readable else ())
        for content in contents:
            yield content if isinstance(content, Unreadable) else next(found)


def _read(path: str, decode: Callable[[bytes], Content]) -> Content | Unreadable:
    try:
        return decode(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        return Unreadable(path, getattr(error, "strerror", None) or str(error))
