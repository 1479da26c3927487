"""A prepared data set on disk, as training and evaluation use it. The arrays of a batch:

Text: `tokens` and `targets` int32 [B, T], `weights` float32 [B, T], and `segments` int32 [B, T] if
documents are kept apart. Pictures: `image` uint8 [B, H, W, C], `label` int32 [B], `weights` float32
[B]. Labelled text: `tokens` and `segments` int32 [B, T] (1: a token, 0: padding), `label` int32
[B], `weights` float32 [B]. A weight of 0 means: not a target.

Pairs of texts: `source` int32 [B, S], the source tokens and a separator; `source_segments` int32
[B, S] (1: a token, 0: padding); `tokens` int32 [B, T], a separator and the target tokens; `targets`
int32 [B, T], the target tokens and a separator; `weights` float32 [B, T]. S and T vary between
batches, among a few lengths each.

Sound: `frames` float32 [B, T, F], the log-mel frames of data.codecs.sound; `segments` int32 [B, T]
(1: a frame, 0: padding); `weights` float32 [B] (0: a broken recording). With transcripts also
`labels` int32 [B, L], their tokens, and `label_weights` float32 [B, L] (1: a token, 0: padding);
with labels `label` int32 [B]. T varies between batches, among a few lengths.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from data.codecs.tokenizers import Tokenizer
from data.length_buckets import Lengths, PaddedShape
from data.records import read_names


class ExampleCodec(ABC):
    """Stores the examples of a split as records, and makes batches of records."""

    unit: str = "examples"
    """What the examples are called in messages."""

    @property
    def is_expensive(self) -> bool:
        """True if making a batch takes longer than transferring it from another thread."""
        return False

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """The type of a record; `object` for bytes of any length."""

    @abstractmethod
    def batch(self, records: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a batch, including `weights`. records: of type `dtype` [B].

        Objects that are not bytes become padding.
        """

    def augmented_batch(
        self, records: NDArray[Any], seed: int, examples: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Return a batch for training, augmented at random as a function of (seed, example
        number)."""
        return self.batch(records)

    def padded_to(self, shape: PaddedShape) -> Self:
        """Return a codec that pads batches to `shape`, if examples have lengths."""
        raise NotImplementedError


def token_type(vocabulary_size: int) -> np.dtype:
    """Return the smaller of uint16 and int32, little endian, that stores all ids of a
    vocabulary."""
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<i4")


@dataclass(frozen=True)
class Split:
    """A split on disk, and counts of its contents.

    bytes: UTF-8 bytes of its text. targets: tokens to predict. tokens: tokens that a model reads,
    without padding. documents, conversations: their numbers in its windows. gzip_bits_per_byte:
    compressed size of its documents (`gzip -9`, one by one). padding: share of positions without a
    target if documents are packed whole; share of padding in training batches if these are padded.
    broken: pictures or recordings that can't be decoded. cut: texts, pairs or conversations that
    were too long and were cut. left_out: pairs left out as too long or without a text; recordings
    left out as too long. seconds: length of all recordings. unknown: targets that are the unknown
    token. Each is None if it does not apply.

    lengths: the lengths of its examples, if they are padded batch by batch.

    parts: in a mixture, the splits of its sources, concatenated; each is named after its source.
    weights: the weights by which training draws examples from the parts.
    """

    name: str
    path: Path
    codec: ExampleCodec
    examples: int
    bytes: int | None = None
    targets: int | None = None
    gzip_bits_per_byte: float | None = None
    padding: float | None = None
    broken: int | None = None
    cut: int | None = None
    left_out: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    documents: int | None = None
    conversations: int | None = None
    unknown: int | None = None
    lengths: Lengths | None = None
    parts: tuple["Split", ...] = ()
    weights: tuple[float, ...] = ()

    def counts(self, examples: int) -> dict[str, int]:
        """Return counts by name: `examples` examples, and the documents or conversations of the
        split."""
        return {self.codec.unit: examples} | self.packed

    @property
    def coded_bytes(self) -> int | None:
        """The bytes of text that the targets encode, for computing bits per byte from their loss.

        None with unknown targets, since a model need not predict the text behind them.
        """
        return self.bytes if self.unknown == 0 else None

    @property
    def packed(self) -> dict[str, int]:
        """The number of documents or conversations in its examples, by name."""
        counts = {"documents": self.documents, "conversations": self.conversations}
        return {name: count for name, count in counts.items() if count is not None}

    def names(self) -> list[str] | None:
        """Return the name of each example: its file, or the file and the line or row; None without
        names."""
        return read_names(self.path)


def join(name: str, parts: Sequence[Split], weights: Sequence[float]) -> Split:
    """Return a split that consists of the splits of several sources."""

    def total(count: str) -> Any:
        counts = [getattr(part, count) for part in parts]
        return None if None in counts else sum(counts)

    def mean(share: str, per: str) -> float | None:
        pairs = [(getattr(part, share), getattr(part, per)) for part in parts]
        if any(None in pair for pair in pairs):
            return None
        return sum(one * weight for one, weight in pairs) / total(per)

    return Split(
        name,
        parts[0].path.parent,
        parts[0].codec,
        examples=total("examples"),
        bytes=total("bytes"),
        targets=total("targets"),
        gzip_bits_per_byte=mean("gzip_bits_per_byte", per="bytes"),
        padding=mean("padding", per="examples"),
        tokens=total("targets"),
        documents=total("documents"),
        unknown=total("unknown"),
        parts=tuple(parts),
        weights=tuple(weights),
    )


@dataclass(frozen=True)
class Dataset:
    """All splits of prepared data, and the sizes that a model needs.

    fingerprint: differs if any example differs. spec: the sizes that a model is built for, and the
    class names. cleaning: for each split of cleaned text, the counts of `data.cleaning.clean`.
    warnings: lines about the data for the user. places: where the examples of each split come from.
    """

    fingerprint: str
    splits: Mapping[str, Split]
    spec: DataSpec
    tokenizer: Tokenizer | None = None
    cleaning: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids; only of data with a tokenizer."""
        assert self.tokenizer is not None
        return self.tokenizer.decode(ids)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a checkpoint's manifest contains about the data, as JSON values."""
        return {"fingerprint": self.fingerprint, **self.spec.to_manifest()}

    @property
    def tokens_per_example(self) -> float | None:
        """Mean tokens that a model reads per training example, without padding; None without
        tokens."""
        train = self.splits["train"]
        return None if train.tokens is None else train.tokens / train.examples
