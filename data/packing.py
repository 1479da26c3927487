"""Packs documents into windows of tokens, by cutting a stream of tokens into equal parts.

The documents of a split, each with a separator before it, form one stream of tokens. The stream is
cut into windows of T + 1 tokens with stride T. The first T tokens of a window are the inputs, the
last T are the targets. So every token of the stream except the first is a target exactly once. The
last window is padded with zeros, which are not targets.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import ExampleCodec, token_type

VERSION = 1
"""Part of the cache key. Increment it when this file makes different examples."""


@dataclass(frozen=True)
class WindowCodec(ExampleCodec):
    """Stores windows of the token stream, and makes batches of them.

    length: the number of targets in a full window (T).
    separator_id: the token that begins each document; batches then have `segments`, which keep
        documents from attending to each other. If it is None, batches have no `segments`: a
        document attends to the earlier ones in its window.
    """

    length: int
    vocabulary_size: int
    separator_id: int | None = None
    unit = "windows"

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a record: the tokens of a window [T + 1], and the number of its targets."""
        token = token_type(self.vocabulary_size)
        return np.dtype([("tokens", token, (self.length + 1,)), ("targets", "<i4")])

    def batch(self, windows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `tokens` and `targets` int32 [B, T], `weights` float32 [B, T] (0: not a target).

        If documents do not attend to each other, also `segments` int32 [B, T]: the number of the
        document in the window, from 1; 0 for padding.
        """
        tokens = windows["tokens"].astype(np.int32)
        real = np.arange(self.length) < windows["targets"][:, None]
        batch = {
            "tokens": np.ascontiguousarray(tokens[:, :-1]),
            "targets": np.ascontiguousarray(tokens[:, 1:]),
            "weights": real.astype(np.float32),
        }
        if self.separator_id is not None:
            opened = np.cumsum(batch["tokens"] == self.separator_id, axis=1, dtype=np.int32)
            batch["segments"] = (opened - opened[:, :1] + 1) * real
        return batch

    def targets(self, tokens: int) -> int:
        """Return the number of targets in a stream of `tokens` tokens."""
        return tokens - 1

    def pack(self, pieces: Iterable[NDArray[np.int32]]) -> Iterator[NDArray[Any]]:
        """Yield the windows of a stream in blocks, of type `dtype`.

        pieces: consecutive parts of the stream, int32 [tokens] each.
        """
        rest = np.empty(0, np.int32)
        for piece in pieces:
            stream = np.concatenate([rest, piece])
            count = max(len(stream) - 1, 0) // self.length
            if count:
                places = np.lib.stride_tricks.sliding_window_view(stream, self.length + 1)
                yield self._store(places[:: self.length][:count], self.length)
            rest = stream[count * self.length :]
        if len(rest) > 1:
            last = np.zeros((1, self.length + 1), np.int32)
            last[0, : len(rest)] = rest
            yield self._store(last, len(rest) - 1)

    def _store(self, tokens: NDArray[np.int32], targets: int) -> NDArray[Any]:
        windows = np.empty(len(tokens), self.dtype)
        windows["tokens"], windows["targets"] = tokens, targets
        return windows
