"""Prints completions of several prompts in order, while all are generated at the same time."""

import json
from collections.abc import Callable, Sequence

from inference.requests import Completion


def heading(prompts: Sequence[str], index: int) -> str:
    """Return the heading of prompt `index`, in the style of the command `head`: `==> "prompt" <==`.

    An empty line separates it from the text before. The prompt is quoted as JSON, so that it fits
    on one line. With only one prompt, the heading is empty.
    """
    if len(prompts) == 1:
        return ""
    blank = "\n" if index else ""
    return f"{blank}==> {json.dumps(prompts[index], ensure_ascii=False)} <==\n"


class Writer:
    """Prints texts in order, each as soon as possible, while all are generated at the same time.

    Each text is printed below the heading of its prompt.

    to_json: if given, a completion is printed only when it has ended, as the line
        `to_json(completion)`.
    """

    def __init__(self, prompts: Sequence[str], to_json: Callable[[Completion], str] | None):
        as_json = to_json is not None
        self._pieces = ["" if as_json else heading(prompts, index) for index in range(len(prompts))]
        self._ended: list[Completion | None] = [None] * len(prompts)
        self._current = 0
        self._to_json = to_json

    def write(self, index: int, piece: str, completion: Completion | None) -> None:
        """Add the next piece of the text with number `index`, and print what can be printed.
        completion: given with the last piece of a text; None before."""
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
