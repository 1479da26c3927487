"""A prepared data set on disk, as training and evaluation see it.

Text: `tokens` and `targets` int32 [B, T], `weights` float32 [B, T], and where documents are kept
apart `segments` int32 [B, T]. Pictures: `image` uint8 [B, H, W, C], `label` int32 [B], `weights`
float32 [B]. Labelled text: `tokens` and `segments` int32 [B, T] (1 a token, 0 nothing), `label`
int32 [B], `weights` float32 [B]. A weight of 0 marks what is no target.

Pairs of texts: `source` int32 [B, S], the tokens of the source and the separator, and
`source_segments` int32 [B, S] (1 a token, 0 nothing); `tokens` int32 [B, T], the separator and the
tokens of the target, `targets` int32 [B, T], those tokens and the separator, and `weights` float32
[B, T]. S and T differ from batch to batch: each is one of a few lengths.

Sound: `frames` float32 [B, T, F], the log-mels of data.codecs.sound, `segments` int32 [B, T] (1 a
frame, 0 nothing), and `weights` float32 [B] (0 a broken recording); with transcripts `labels` int32
[B, L], their tokens, and `label_weights` float32 [B, L] (1 a token, 0 nothing); with labels `label`
int32 [B]. T differs from batch to batch: it is one of a few lengths.
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
    """Stores the examples of a split as records, and makes batches of the records."""

    unit: str = "examples"
    """The examples' name in messages."""

    @property
    def is_expensive(self) -> bool:
        """True where making a batch takes longer than handing it over from another thread."""
        return False

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype of a record; `object` for bytes of any length."""

    @abstractmethod
    def batch(self, records: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a batch, `weights` among them, from `records` of `dtype` [B].

        Objects that are not bytes become padding.
        """

    def augmented_batch(
        self, records: NDArray[Any], seed: int, examples: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Return the batch as training sees it: (seed, example number) decide what is random."""
        return self.batch(records)

    def padded_to(self, shape: PaddedShape) -> Self:
        """Return the codec whose batches are padded to `shape`, for examples of many lengths."""
        raise NotImplementedError


def token_type(vocabulary_size: int) -> np.dtype:
    """Return the smallest dtype that stores all ids of a vocabulary, little endian."""
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<i4")


@dataclass(frozen=True)
class Split:
    """A split on disk, and how much it holds.

    bytes: UTF-8 bytes of its text. targets: tokens to predict. tokens: those that a model reads,
    without padding. documents, conversations: what its windows hold. gzip_bits_per_byte: what
    `gzip -9` needs for its documents, one by one. padding: share of positions without a target,
    where documents are packed whole; of those of training batches, where these are padded. broken:
    pictures, or recordings, that can't be decoded. cut: texts, or pairs, that were longer than T.
    left_out: pairs that lacked a text, or were too long; recordings that were. seconds: of all
    recordings. unknown: targets that stand for text which the tokenizer has no token for. None
    where they do not apply.

    lengths: of its examples, where they are padded batch by batch.

    parts: of a mixture its sources' splits, one after the other, each named after its source.
    weights: of the parts, where examples are drawn from them.
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
        """Return counts by name: so many examples, and what all of the split's hold."""
        return {self.codec.unit: examples} | self.packed

    @property
    def coded_bytes(self) -> int | None:
        """The bytes of text that the targets code for: with their loss they give bits per byte.
        None where some are unknown: a model never has to write the text that those stand for."""
        return self.bytes if self.unknown == 0 else None

    @property
    def packed(self) -> dict[str, int]:
        """Counts by name of the documents or conversations in its examples."""
        counts = {"documents": self.documents, "conversations": self.conversations}
        return {name: count for name, count in counts.items() if count is not None}

    def names(self) -> list[str] | None:
        """Return each example's name: its file, or file and line, or row where a file has no lines;
        None where they have no names."""
        return read_names(self.path)


def join(name: str, parts: Sequence[Split], weights: Sequence[float]) -> Split:
    """Return a split made of those of several sources."""

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
    """All splits of prepared data, and their description for a model.

    fingerprint: differs where any example differs. spec: the sizes that a model is built for, and
    the names of the classes. cleaning: for each split of text that was cleaned what that did, as
    `data.cleaning.clean` counts it. warnings: lines for the user about the data. places:
    where the examples of each split come from.
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
        """The part of a checkpoint's manifest about the data, as JSON."""
        return {"fingerprint": self.fingerprint, **self.spec.to_manifest()}

    @property
    def tokens_per_example(self) -> float | None:
        """Mean tokens that a model reads of a training example, without padding; None without
        tokens."""
        train = self.splits["train"]
        return None if train.tokens is None else train.tokens / train.examples
