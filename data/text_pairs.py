"""Prepares pairs of texts as records of source and target tokens, and makes batches of them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import compress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data.cache import digest
from data.classes import is_no_value
from data.cleaning import Pieces
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, ExampleCodec, Split, token_type
from data.length_buckets import PaddedShape, open_lengths, write_lengths
from data.progress import Progress, read_blocks
from data.records import write_names, write_records
from data.sources.source import RawExamples, RawSplits, copies_line
from data.text import PIECES_AT_ONCE, TOKENIZER, make_tokenizer, tokenizer_key

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


@dataclass(frozen=True)
class PairPreparation:
    """Prepares pairs of texts.

    source: the source of the pairs.
    settings: `config.data`.

    A raw example has a `source`, a `target` and a `name`. Pairs with an empty text are left out.
    Pairs with a text above its length limit are left out of training, and cut in other splits.
    """

    source: Any
    settings: Any

    def cache_key(self) -> dict[str, Any]:
        return {
            "text_pairs": VERSION,
            "lengths": self._limits,
            "tokenizer": tokenizer_key(self.settings.tokenizer),
        }

    def write(
        self, sources: Sequence[RawSplits], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        (splits,) = sources
        both = Pieces(_Texts(splits["train"]))
        tokenizer = make_tokenizer(self.settings.tokenizer, [both], progress)
        tokenizer.save(folder / TOKENIZER)
        metadata, warnings, hashes, learnt = {}, [], {}, np.zeros(0, np.uint64)
        for split, records in splits.items():
            writing = _Writing(split, self._codec(tokenizer), self._limits)
            path = folder / f"{split}.array_record"
            blocks = writing.blocks(records, tokenizer, progress)
            count, hashes[split] = write_records(path, blocks)
            if not count:
                raise UsageError(
                    f"no pair of {split} is left: {'; '.join(writing.warnings(len(records)))}"
                )
            lengths = np.concatenate(writing.lengths)
            write_lengths(path, lengths)
            if writing.names:
                write_names(path, writing.names)
            warnings += writing.warnings(len(records))
            pairs = np.concatenate(writing.pairs)
            if split == "train":
                learnt = pairs
            elif copies := [*compress(writing.names, np.isin(pairs, learnt))]:
                warnings.append(copies_line(copies, f"{count:,} pairs of {split}"))
            metadata[split] = {"examples": count, "targets": int(lengths[:, 1].sum()),
                            **writing.metadata()}  # fmt: skip
        decided = {"records": hashes, "vocabulary": tokenizer.vocabulary()}
        return {"fingerprint": digest(decided), "splits": metadata, "notes": warnings}

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        codec, splits = self._codec(tokenizer), {}
        for name, numbers in metadata["splits"].items():
            path = folder / f"{name}.array_record"
            lengths, padding = open_lengths(path, self.settings.length_buckets), None
            if name == "train":
                padding = lengths.padding(self.settings.global_batch_size)
            tokens = int(np.load(lengths.path).sum())  # including separators
            splits[name] = Split(
                name, path, codec, padding=padding, tokens=tokens, lengths=lengths, **numbers
            )
        source, target = self._limits
        spec = DataSpec(
            vocabulary_size=tokenizer.vocabulary_size, max_source_length=source, max_length=target
        )
        warnings = tuple(metadata["notes"])
        return Dataset(metadata["fingerprint"], splits, spec, tokenizer, warnings=warnings)

    @property
    def _limits(self) -> PaddedShape:
        return self.settings.max_source_length, self.settings.max_target_length

    def _codec(self, tokenizer: Tokenizer) -> PairCodec:
        return PairCodec(tokenizer.vocabulary_size, tokenizer.separator_id, self._limits)


@dataclass(frozen=True)
class _Texts(RawExamples):
    """The texts of both sides of pairs, for training a tokenizer: source, target, source, ..."""

    records: RawExamples

    def __len__(self) -> int:
        return 2 * len(self.records)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        wanted = sorted({number // 2 for number in numbers})
        pairs = dict(zip(wanted, self.records.__getitems__(wanted), strict=True))
        return [
            {"piece": 0, "text": pairs[number // 2]["target" if number % 2 else "source"]}
            for number in numbers
        ]


class _Writing:
    """Makes the records of a split, and collects names and counts.

    limits: maximum length of a source and of a target, including separators. lengths, pairs: for
    each block, the lengths and a hash of each pair that is kept. names: the names of the pairs that
    are kept; empty for training.
    """

    def __init__(self, split: str, codec: PairCodec, limits: PaddedShape):
        self._split, self._codec, self._limits = split, codec, limits
        self._counts: Counter[str] = Counter()
        self.lengths: list[NDArray[np.int32]] = []
        self.pairs: list[NDArray[np.uint64]] = []
        self.names: list[str] = []

    def blocks(
        self, records: RawExamples, tokenizer: Tokenizer, progress: Progress
    ) -> Iterator[NDArray[Any]]:
        """Yield the records of the pairs that are kept, in blocks."""
        stage = f"tokenising {self._split}"
        for group in read_blocks(records, PIECES_AT_ONCE, progress, stage, "pairs"):
            texts = [one[side].decode() for side in ("source", "target") for one in group]
            tokens = tokenizer.encode_many(texts)
            block, lengths = [], []
            for place, one in enumerate(group):
                rows = (place, place + len(group))
                if any(not texts[row].strip() or not len(tokens[row]) for row in rows):
                    self._counts["empty"] += 1
                    continue
                sides = self._fit([tokens[row] for row in rows])
                if sides is None:
                    continue
                for side, row in zip(("source", "target"), rows, strict=True):
                    self._counts[f"missing {side}"] += is_no_value(texts[row])
                block.append(self._codec.encode(*sides))
                lengths.append([len(side) + 1 for side in sides])
                if self._split != "train":
                    self.names.append(one["name"].decode())
            if block:
                self.lengths.append(np.array(lengths, np.int32))
                digests = b"".join(blake2b(pair, digest_size=8).digest() for pair in block)
                self.pairs.append(np.frombuffer(digests, np.uint64))
                yield np.array(block, object)

    def metadata(self) -> dict[str, int]:
        """Return the number of pairs that were left out and that were cut."""
        return {
            "left_out": self._counts["empty"] + self._counts["too long"],
            "cut": self._counts["cut"],
        }

    def warnings(self, pairs: int) -> list[str]:
        """Return warnings about pairs that were left out or cut. pairs: the number of all pairs."""
        source, target = self._limits
        limits = f"data.max_source_length={source}", f"data.max_target_length={target}"
        missing = "seem to be missing, such as nan or NULL, and are learnt"
        messages = {
            "empty": ("pairs", "lack a text, and are left out"),
            "too long": ("pairs", f"are longer than {' or '.join(limits)}, and left out"),
            "cut source": ("sources", f"are longer than {limits[0]}, and cut"),
            "cut target": ("targets", f"are longer than {limits[1]}, and cut: the rest counts for "
                           "nothing"),
            "missing source": ("sources", missing),
            "missing target": ("targets", missing),
        }  # fmt: skip
        return [
            f"{self._counts[what]:,} of {pairs:,} {things} of {self._split} {happened}"
            for what, (things, happened) in messages.items()
            if self._counts[what]
        ]

    def _fit(self, sides: list[NDArray[np.int32]]) -> list[NDArray[np.int32]] | None:
        """Return both sides, cut to their limits; None if they are too long in training."""
        long = [len(side) + 1 > limit for side, limit in zip(sides, self._limits, strict=True)]
        if not any(long):
            return sides
        if self._split == "train":
            self._counts["too long"] += 1
            return None
        self._counts["cut"] += 1
        self._counts.update(
            name for name, it_is in zip(("cut source", "cut target"), long, strict=True) if it_is
        )
        return [side[: limit - 1] for side, limit in zip(sides, self._limits, strict=True)]
