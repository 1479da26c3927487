"""Documents to windows of tokens.

The documents of a split, each opened by the separator, are one stream of tokens. It is cut into
windows of T + 1 tokens at a stride of T: the first T are the input, the last T the targets, so
that every token of the stream but the very first is a target exactly once. The last window is
filled up with zeros, which are no targets.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import ExampleCodec, token_type

VERSION = 1
"""A part of the cache key: raised when this file makes other examples."""


@dataclass(frozen=True)
class WindowCodec(ExampleCodec):
    """Stores windows of a stream of documents, and batches them.

    length: targets in a full window (T). separator_id: of the token that opens documents; None
    where documents may see those before them in the window.
    """

    length: int
    vocabulary_size: int
    separator_id: int | None = None
    unit = "windows"

    @property
    def dtype(self) -> np.dtype:
        """A stored window: its tokens, and how many of its targets are real."""
        token = token_type(self.vocabulary_size)
        return np.dtype([("tokens", token, (self.length + 1,)), ("targets", "<i4")])

    def batch(self, windows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `tokens` and `targets` int32 [B, T], `weights` float32 [B, T] (0 = no target).

        Where documents are kept apart also `segments` int32 [B, T]: the documents of a window
        numbered from 1, 0 where there is nothing.
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
        """Return the targets of a stream of `tokens`."""
        return tokens - 1

    def pack(self, pieces: Iterable[NDArray[np.int32]]) -> Iterator[NDArray[Any]]:
        """Yield the windows of the stream that `pieces`, int32 [tokens] each, are joined to."""
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
