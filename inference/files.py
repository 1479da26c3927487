"""Input files: their names from globs, and answering them a few at a time."""

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from configs.errors import UsageError
from configs.reading.inputs import nearest_path

Content = TypeVar("Content")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Unreadable:
    """An input that can't be read, and why. It takes the place of an answer."""

    input: str
    reason: str


def input_files(
    paths: Sequence[str], kind: str, *, or_standard_input: bool = False
) -> tuple[str, ...]:
    """Return the files that --input names, with the files of a glob sorted.

    kind: what the model reads, such as "a picture". or_standard_input: whether "-" is allowed.
    Raises `UsageError` for a file that does not exist.
    """
    names: list[str] = []
    for path in paths:
        if Path(path).is_file() or (path == "-" and or_standard_input):
            names.append(path)
        elif Path(path).is_dir():
            raise UsageError(
                f"--input={path} is a folder: give {kind} in it, or a glob in quotes for several"
            )
        elif glob.has_magic(path):
            files = sorted(filter(os.path.isfile, glob.iglob(path, recursive=True)))
            if not files:
                raise UsageError(f"--input={path}: no file matches")
            names += files
        else:
            near = nearest_path(path)
            hint = f", did you mean {near}?" if near else ""
            raise UsageError(f"--input={path}: no such file{hint}")
    return tuple(names)


def answer_files(
    paths: Sequence[str],
    decode: Callable[[bytes], Content],
    answer: Callable[[Sequence[str], Sequence[Content]], Sequence[Output]],
    at_once: int,
) -> Iterator[Output | Unreadable]:
    """Answer each file that `decode` can read, in order; yield `Unreadable` for each other file.

    `decode` raises ValueError for content that it can't read. `answer` gets the names and contents
    of at most `at_once` files, so that no more are in memory.
    """
    for start in range(0, len(paths), at_once):
        part = paths[start : start + at_once]
        contents = [_read(path, decode) for path in part]
        pairs = zip(part, contents, strict=True)
        readable = [pair for pair in pairs if not isinstance(pair[1], Unreadable)]
        answers = iter(answer(*zip(*readable, strict=True)) if readable else ())
        for content in contents:
            yield content if isinstance(content, Unreadable) else next(answers)


def _read(path: str, decode: Callable[[bytes], Content]) -> Content | Unreadable:
    try:
        return decode(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        return Unreadable(path, getattr(error, "strerror", None) or str(error))
