"""Prepares pairs of texts as records of source and target tokens, and makes batches of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data.classes import is_no_value
from data.dataset import ExampleCodec, Split, token_type
from data.driver import Part, Preparation, content_hash
from data.length_buckets import Lengths, PaddedShape
from data.progress import AT_ONCE

VERSION = 1
"""Part of the cache key. Increment it when this file makes different examples."""

Side = tuple[NDArray[np.int32], NDArray[np.int64]]
"""The sources, or the targets, of a batch: their tokens, concatenated, and the length of each."""

_HEAD_BYTES = 4  # at the start of a record: the number of source tokens, little endian
_NOTHING = bytes(_HEAD_BYTES)


@dataclass(frozen=True)
class PairCodec(ExampleCodec):
    """Stores pairs of texts, and makes batches of them.

    shape: lengths (S, T) that sources and targets are padded to, including separators.
    """

    vocabulary_size: int
    separator_id: int
    shape: PaddedShape
    dtype = np.dtype(object)

    def batch(self, pairs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `source` and `source_segments` int32 [B, S], `tokens` and `targets` int32 [B, T],
        and `weights` float32 [B, T], as described in `data.dataset`.

        A record that is not bytes becomes an empty pair of weight 0.
        """
        S, T = self.shape
        there = np.array([isinstance(pair, bytes) for pair in pairs])
        of_source, of_target = self._sides(
            [pair if isinstance(pair, bytes) else _NOTHING for pair in pairs]
        )
        source, source_real = self._padded(*of_source, S)
        targets, target_real = self._padded(*of_target, T)
        opened = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=self.separator_id)
        return {
            "source": source,
            "source_segments": source_real.astype(np.int32),
            "tokens": opened * target_real,
            "targets": targets,
            "weights": (target_real & there[:, None]).astype(np.float32),
        }

    def padded_to(self, shape: PaddedShape) -> Self:
        return replace(self, shape=shape)

    def encode(self, source: NDArray[np.int32], target: NDArray[np.int32]) -> bytes:
        """Return the record of a pair: the number of source tokens, then the tokens of both
        sides."""
        head = len(source).to_bytes(_HEAD_BYTES, "little")
        return head + np.concatenate([source, target]).astype(self._token).tobytes()

    def _sides(self, pairs: Sequence[bytes]) -> tuple[Side, Side]:
        """Return the source side and the target side of all `pairs`."""
        joined = b"".join(pair[_HEAD_BYTES:] for pair in pairs)
        tokens = np.frombuffer(joined, self._token).astype(np.int32)
        sources = np.array([int.from_bytes(pair[:_HEAD_BYTES], "little") for pair in pairs])
        sizes = np.array([len(pair) - _HEAD_BYTES for pair in pairs]) // self._token.itemsize
        places = np.arange(len(tokens)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        of_source = places < np.repeat(sources, sizes)
        return (tokens[of_source], sources), (tokens[~of_source], sizes - sources)

    def _padded(
        self, tokens: NDArray[np.int32], counts: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Add a separator to each text, and pad to `length`; return also a mask of non-padding.

        tokens: the tokens of all texts, concatenated.
        counts: the number of tokens of each text.
        """
        places, counts = np.arange(length), counts[:, None]
        padded = np.zeros((len(counts), length), np.int32)
        padded[places < counts] = tokens
        padded[places == counts] = self.separator_id
        return padded, places <= counts

    @property
    def _token(self) -> np.dtype:
        return token_type(self.vocabulary_size)


class PairPreparation(Preparation):
    """Prepares pairs of texts. A raw example has a `source`, a `target` and a `name`.

    Pairs with an empty text are left out. Pairs with a text above its length limit, which counts a
    separator, are left out of training, and cut in other splits.
    """

    things = "pairs"

    def key(self) -> dict[str, Any]:
        return {"text_pairs": VERSION, "lengths": self._limits}

    def texts(self, part: Part) -> Iterator[str]:
        for one in part.examples:
            yield one["source"]
            yield one["target"]

    def codec(self, split: str, lengths: Lengths | None = None) -> PairCodec:
        size, separator = self.tokenizer.vocabulary_size, self.tokenizer.separator_id
        return PairCodec(size, separator, self._limits)

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        codec = self.codec(part.split)
        part.counts |= {"left_out": 0, "cut": 0}
        for group in part.read("tokenising", AT_ONCE):
            block, of_block = [], []
            for one, *sides in self._whole(part, group):
                if (fitting := self._fit(part, sides)) is None:
                    continue
                for name in ("source", "target"):
                    if is_no_value(one[name]):
                        what = "seem to be missing, such as nan or NULL, and are learnt"
                        part.note(what, things=f"{name}s")
                block.append(codec.encode(*fitting))
                of_block.append([len(side) + 1 for side in fitting])
                if part.split != "train":
                    part.names.append(one["name"])
            if block:
                part.lengths.append(np.array(of_block, np.int32))
                part.contents.append(np.array([*map(content_hash, block)], np.uint64))
                yield np.array(block, object)
        if not part.written:
            raise UsageError(f"no pair of {part.split} is left: {'; '.join(part.lines())}")
        lengths = np.concatenate(part.lengths)
        part.counts |= {"tokens": int(lengths.sum()), "targets": int(lengths[:, 1].sum())}

    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        source, target = self._limits
        size = self.tokenizer.vocabulary_size
        return DataSpec(vocabulary_size=size, max_source_length=source, max_length=target)

    @property
    def length_buckets(self) -> int:
        return self.settings.length_buckets

    @property
    def _limits(self) -> PaddedShape:
        return self.settings.max_source_length, self.settings.max_target_length

    def _whole(
        self, part: Part, group: Sequence[dict[str, Any]]
    ) -> list[tuple[dict[str, Any], NDArray[np.int32], NDArray[np.int32]]]:
        """Return the pairs that lack no text, each with the tokens of both sides."""
        sides = [
            self.tokenizer.encode_many(one[side] for one in group) for side in ("source", "target")
        ]
        whole = [
            (one, source, target)
            for one, source, target in zip(group, *sides, strict=True)
            if one["source"].strip() and one["target"].strip() and len(source) and len(target)
        ]
        part.note("lack a text, and are left out", count=len(group) - len(whole))
        part.counts["left_out"] += len(group) - len(whole)
        return whole

    def _fit(
        self, part: Part, sides: Sequence[NDArray[np.int32]]
    ) -> Sequence[NDArray[np.int32]] | None:
        """Return both sides, cut to their limits; None if they are too long in training."""
        long = [len(side) + 1 > limit for side, limit in zip(sides, self._limits, strict=True)]
        if not any(long):
            return sides
        source, target = self._limits
        limits = f"data.max_source_length={source}", f"data.max_target_length={target}"
        if part.split == "train":
            part.note(f"are longer than {' or '.join(limits)}, and left out")
            part.counts["left_out"] += 1
            return None
        part.counts["cut"] += 1
        if long[0]:
            part.note(f"are longer than {limits[0]}, and cut", things="sources")
        if long[1]:
            what = f"are longer than {limits[1]}, and cut: the rest counts for nothing"
            part.note(what, things="targets")
        return [side[: limit - 1] for side, limit in zip(sides, self._limits, strict=True)]
