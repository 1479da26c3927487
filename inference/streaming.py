"""Completions on standard output, one prompt after the other."""

import json
from collections.abc import Callable, Sequence

from inference.requests import Completion


def heading(prompts: Sequence[str], index: int) -> str:
    """Return the heading of a prompt's text: a line as `head` prints for a file.

    An empty line parts it from the text before. A prompt of several lines is quoted in one. Where
    there is one prompt alone, the heading is empty.
    """
    if len(prompts) == 1:
        return ""
    blank = "\n" if index else ""
    return f"{blank}==> {json.dumps(prompts[index], ensure_ascii=False)} <==\n"


class Writer:
    """Writes texts that grow at the same time, one after the other, each as soon as possible.

    A text stands below the heading of its prompt, or is written by `to_json`.
    """

    def __init__(self, prompts: Sequence[str], to_json: Callable[[Completion], str] | None):
        as_json = to_json is not None
        self._pieces = ["" if as_json else heading(prompts, index) for index in range(len(prompts))]
        self._ended: list[Completion | None] = [None] * len(prompts)
        self._current = 0
        self._to_json = to_json

    def write(self, index: int, piece: str, completion: Completion | None) -> None:
        """Take a piece of the text `index`; `completion` is given with its last one."""
        self._pieces[index] += piece
        self._ended[index] = completion
        while self._current < len(self._pieces):
            ended = self._ended[self._current]
            if self._to_json is None:
                print(self._pieces[self._current], end="" if ended is None else "\n", flush=True)
                self._pieces[self._current] = ""
            if ended is None:
                return
            if self._to_json is not None:
                print(self._to_json(ended), flush=True)
            self._current += 1
