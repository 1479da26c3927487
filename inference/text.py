"""Decides which tokens may be generated, and turns generated tokens into text."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.codecs.tokenizers import UNKNOWN, StreamDecoder, Tokenizer


def writable_tokens(tokenizer: Tokenizer) -> np.ndarray:
    """Return the ids that may be generated, as a mask, bool [vocabulary]. The unknown token and ids
    without a token are excluded."""
    ids = [token_id for token, token_id in tokenizer.vocabulary().items() if token != UNKNOWN]
    return np.isin(np.arange(tokenizer.vocabulary_size), ids)


class GrowingText:
    """A text that grows token by token. It ends at the tokenizer's `end_id`, at a stop string or
    after `max_tokens`.

    stop_tokens: ids that end the text like a stop string, besides the tokenizer's `other_end_ids`.
    after: the prompt's tokens, if they are needed to decode the first characters of the text; else
        empty.

    `text` and `tokens` are as in `Completion`; `finish` is None until the text has ended.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_tokens: int,
        stop: Sequence[str],
        stop_tokens: Sequence[int] = (),
        after: Sequence[int] = (),
    ):
        self._end_id = tokenizer.end_id
        self._decoder = StreamDecoder(tokenizer, after)
        self._max_tokens = max_tokens
        self._stop = stop
        self._stop_tokens = frozenset((*stop_tokens, *tokenizer.other_end_ids))
        self._lengths: list[int] = []  # characters of the text after each token
        self._released = 0  # number of characters that were returned
        self.text = ""
        self.finish: Literal["separator", "stop", "length", "cancelled"] | None = None

    @property
    def tokens(self) -> int:
        """Return the number of tokens that are at least partly in the text."""
        if self.finish != "stop":
            return len(self._lengths)
        return sum(length < len(self.text) for length in self._lengths) + bool(self.text)

    def push(self, token: int) -> str:
        """Add a token; return the new part of the text that can no longer change.

        An incomplete character is held back, and so are characters at the end that may be the
        beginning of a stop string. Do not call this after the text has ended.
        """
        before = len(self.text)
        if token == self._end_id:
            self.finish = "separator"
        elif token in self._stop_tokens:
            self.finish = "stop"
        else:
            self.text += self._decoder.push(token)
            self._lengths.append(len(self.text))
            if len(self._lengths) == self._max_tokens:
                self.finish = "length"
        if self.finish is not None:
            self.text += self._decoder.flush()
        self._cut(before)
        return self._release()

    def end(self, finish: Literal["length", "cancelled"]) -> str:
        """End the text before it ends by itself; return the part that was held back."""
        before = len(self.text)
        self.finish = finish
        self.text += self._decoder.flush()
        self._cut(before)
        return self._release()

    def _release(self) -> str:
        held_back = 0 if self.finish else self._held_back()
        piece = self.text[self._released : len(self.text) - held_back]
        self._released += len(piece)
        return piece

    def _cut(self, before: int) -> None:
        """Cut the text before the first stop string, if there is one that ends after the first
        `before` characters."""
        starts = [
            start
            for stop in self._stop
            if (start := self.text.find(stop, max(0, before - len(stop) + 1))) >= 0
        ]
        if starts:
            self.text = self.text[: min(starts)]
            self.finish = "stop"

    def _held_back(self) -> int:
        """Return the length of the longest suffix that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self.text)), 0, -1):
            end = self.text[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
