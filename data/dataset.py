"""A prepared data set on disk, as training and evaluation read it.

A batch is a dictionary of arrays. A target or row with weight 0 does not count in the loss.

Text: `tokens`, `targets` int32 [B, T]; `weights` float32 [B, T]; and, if documents do not attend to
each other, `segments` int32 [B, T] (the document's number in the window, 0: padding).

Images: `image` uint8 [B, H, W, C]; `label` int32 [B]; `weights` float32 [B].

Labelled text: `tokens` int32 [B, T]; `segments` int32 [B, T] (1: token, 0: padding); `label` int32
[B]; `weights` float32 [B].

Pairs of texts: `source` int32 [B, S] (source tokens, separator); `source_segments` int32 [B, S] (1:
token, 0: padding); `tokens` int32 [B, T] (separator, target tokens); `targets` int32 [B, T] (target
tokens, separator); `weights` float32 [B, T]. S and T each take a few values and vary by batch.

Audio: `frames` float32 [B, T, F] (log-mel frames, see data.codecs.sound); `segments` int32 [B, T]
(1: frame, 0: padding); `weights` float32 [B] (0: broken recording). With transcripts: `labels`
int32 [B, L] (tokens) and `label_weights` float32 [B, L] (1: token, 0: padding). With classes:
`label` int32 [B]. T takes a few values and varies by batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from data import changes
from data.codecs.tokenizers import Tokenizer
from data.length_buckets import Lengths, PaddedShape
from data.records import read_names


class ExampleCodec(ABC):
    """Stores the examples of a split as records, and makes batches of records.

    Each kind of data has a subclass.
    """

    unit: str = "examples"
    """Plural noun for the examples in messages."""

    @property
    def is_expensive(self) -> bool:
        """True if making a batch takes longer than passing it between threads."""
        return False

    @property
    def is_augmented(self) -> bool:
        """True if training batches are made by `augmented_batch`."""
        return False

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype of a record; `object` if records are bytes of varying length."""

    @abstractmethod
    def batch(self, records: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the arrays of a batch, including `weights`. records: `dtype` [B].

        If `dtype` is `object`, a record that is not bytes becomes a padding row, with weight 0.
        """

    def augmented_batch(
        self, records: NDArray[Any], seed: int, examples: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        """Return a training batch with random augmentation. Only if `is_augmented`.

        examples: the example number of each row, int64 [B]. The same seed and example number always
        give the same augmentation.
        """
        raise NotImplementedError

    def padded_to(self, shape: PaddedShape) -> Self:
        """Return a copy that pads batches to `shape`. Only for examples with lengths."""
        raise NotImplementedError


def token_type(vocabulary_size: int) -> np.dtype:
    """Return the dtype for stored token ids: uint16 if it is large enough, else int32.

    Both are little endian.
    """
    return np.dtype("<u2" if vocabulary_size <= 2**16 else "<i4")


@dataclass(frozen=True)
class Split:
    """A split on disk, and counts of its contents. A count that does not apply is None.

    path: the file of records.
    examples: number of records, which are windows in packed text.

    bytes: UTF-8 bytes of the text of the targets.
    targets: number of tokens to predict.
    tokens: number of tokens that a model reads, without padding.
    documents, conversations: number of documents, or of conversations.
    gzip_bits_per_byte: size of the documents, each compressed by `gzip -9`, in bits per byte of
        text.
    padding: share of padding, in packed windows or in padded training batches.
    broken: number of images or recordings that can't be decoded.
    cut: number of texts, documents, pairs or conversations that were too long and were cut.
    left_out: number of pairs that are too long or lack a text, or of recordings that are too long;
        they are not stored.
    seconds: total length of the recordings.
    unknown: number of targets that are the unknown token.
    most_subsampling: the largest number of frames per position with which CTC can learn one of the
        transcripts.

    lengths: the lengths of the examples; None unless batches are padded to varying lengths.

    parts: in a mixture, the split of each source, named after the source. The examples of a mixture
        are those of its parts, one part after the other.
    weights: sampling weights of the parts in training.
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
    most_subsampling: int | None = None
    lengths: Lengths | None = None
    parts: tuple["Split", ...] = ()
    weights: tuple[float, ...] = ()

    def counts(self, examples: int) -> dict[str, int]:
        """Return counts for messages, by plural noun: `examples` under the codec's `unit`, and the
        counts in `packed`."""
        return {self.codec.unit: examples} | self.packed

    @property
    def coded_bytes(self) -> int | None:
        """UTF-8 bytes of the text of the targets, to compute bits per byte from the loss.

        None if there are unknown tokens, as a model can predict one without knowing its text.
        """
        return self.bytes if self.unknown == 0 else None

    @property
    def packed(self) -> dict[str, int]:
        """The number of documents or conversations, by noun; empty if the split has neither."""
        counts = {"documents": self.documents, "conversations": self.conversations}
        return {name: count for name, count in counts.items() if count is not None}

    def names(self) -> list[str] | None:
        """Return the name of each example, or None if examples have no names.

        A name is a file, or a file with a line or row.
        """
        return read_names(self.path)


def join(name: str, parts: Sequence[Split], weights: Sequence[float]) -> Split:
    """Return a split of a mixture, made of the splits `parts` of its sources.

    weights: sampling weights of the parts in training. Counts are added; shares are averaged.
    """

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

    fingerprint: a hash that changes if any example changes.
    spec: the sizes that a model is built for, and the class names.
    cleaning: for each split of cleaned text, the counts that `data.cleaning.clean` returns.
    warnings: warnings for the user, one line each.
    places: for each split, a text that says where its examples come from.
    prepared_by: all that determined the records, as JSON values by name: settings, versions of the
        code, and a hash of the source.
    """

    fingerprint: str
    splits: Mapping[str, Split]
    spec: DataSpec
    tokenizer: Tokenizer | None = None
    cleaning: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    prepared_by: Mapping[str, Any] = field(default_factory=dict)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids. Only for data with a tokenizer."""
        assert self.tokenizer is not None
        return self.tokenizer.decode(ids)

    @property
    def metadata(self) -> dict[str, Any]:
        """The entry for the data in a checkpoint's manifest, as JSON values."""
        facts = {
            "fingerprint": self.fingerprint,
            "prepared_by": dict(self.prepared_by),
            "examples": self.splits["train"].examples,
        }
        return {**facts, **self.spec.to_manifest()}

    def changes_since(self, data: Mapping[str, Any]) -> str | None:
        """Return None if the examples are those of a checkpoint; else the beginning of a message,
        such as "the data changed (sequence_length was 64, is 32)".

        data: the entry for the data in the checkpoint's manifest.
        """
        if data["fingerprint"] == self.fingerprint:
            return None
        texts = [changes.between(data.get("prepared_by"), self.prepared_by)]
        train = self.splits["train"]
        if (count := data.get("examples", train.examples)) != train.examples:
            texts.append(f"train had {count:,} {train.codec.unit}, has {train.examples:,}")
        differences = "; ".join(filter(None, texts))
        return f"the data changed ({differences})" if differences else "the data changed"

    @property
    def tokens_per_example(self) -> float | None:
        """Mean number of tokens per training example, without padding; None without tokens."""
        train = self.splits["train"]
        return None if train.tokens is None else train.tokens / train.examples
