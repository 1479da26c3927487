"""Finds input files by name or glob, and answers them a few at a time."""

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
    """An input that can't be read, and the reason. It is returned in place of an answer."""

    input: str
    reason: str


def input_files(
    paths: Sequence[str], kind: str, *, or_standard_input: bool = False
) -> tuple[str, ...]:
    """Return the files that --input names. The matches of a glob are sorted.

    kind: the kind of file that the model reads, for messages, such as "a picture".
    or_standard_input: whether "-" is allowed.

    Raises `UsageError` for a folder, a file that does not exist, and a glob without a match.
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


def text_of_file(flag: str, path: str) -> str:
    """Return the text of the file that `flag` names.

    Raises `UsageError` if there is no such file, or if it can't be read as UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest_path(path)
        hint = f", did you mean {near}?" if near else ""
        raise UsageError(f"{flag}={path}: no such file{hint}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise UsageError(f"{flag}={path} can't be read: {reason}") from None


def answer_files(
    paths: Sequence[str],
    decode: Callable[[bytes], Content],
    answer: Callable[[Sequence[str], Sequence[Content]], Sequence[Output]],
    at_once: int,
) -> Iterator[Output | Unreadable]:
    """Answer each file in order; yield `Unreadable` for a file that can't be read.

    decode: returns the content of a file for the model; raises ValueError if it can't be read.
    answer: gets the names and contents of at most `at_once` files, and returns their answers.

    No more than `at_once` files are in memory at the same time.
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
