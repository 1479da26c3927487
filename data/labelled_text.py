"""Prepares labelled texts as records of tokens.

Each text gets the tokens that the tokenizer puts around every text, such as [CLS] and [SEP], and is
cut or padded to `data.sequence_length`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data.classes import assign_classes, is_no_value, no_values
from data.dataset import ExampleCodec, Split, token_type
from data.document_encoding import documents_key, encode_documents
from data.driver import Part, Preparation, content_hash
from data.length_buckets import Lengths
from data.progress import AT_ONCE, Progress, delayed, in_blocks, track

VERSION = 5
"""Part of the cache key. Increment it when this file makes different examples."""


@dataclass(frozen=True)
class LabelledTextCodec(ExampleCodec):
    """Stores labelled texts, and makes batches of them. length: positions per text (T)."""

    length: int
    vocabulary_size: int

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a record: the tokens of a text [T], their number, and the label."""
        token = token_type(self.vocabulary_size)
        return np.dtype([("tokens", token, (self.length,)), ("count", "<i4"), ("label", "<i4")])

    def batch(self, texts: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `tokens`, `segments` int32 [B, T] (1: a token, 0: padding), `label` int32 [B], and
        `weights` float32 [B], all 1."""
        real = np.arange(self.length) < texts["count"][:, None]
        return {
            "tokens": texts["tokens"].astype(np.int32),
            "segments": real.astype(np.int32),
            "label": texts["label"].astype(np.int32),
            "weights": np.ones(len(texts), np.float32),
        }

    def encode(self, texts: Sequence[tuple[NDArray[np.int32], int]]) -> NDArray[Any]:
        """Return the records of texts, `dtype` [len(texts)]. texts: the tokens of each, at most T,
        and its class."""
        records = np.zeros(len(texts), self.dtype)
        for record, (tokens, label) in zip(records, texts, strict=True):
            record["tokens"][: len(tokens)] = tokens
            record["count"], record["label"] = len(tokens), label
        return records


class LabelledTextPreparation(Preparation):
    """Prepares labelled texts. A raw example is a piece of a text: its `document` (the name),
    `piece` (the number), `text` and `label`, a string."""

    things = "texts"
    layout = 3
    _number_of: Mapping[str, int]  # of a label: the number of its class

    def key(self) -> dict[str, Any]:
        return {
            "labelled_text": VERSION,
            "sequence_length": self.settings.sequence_length,
            **documents_key(self.settings.tokenizer),
        }

    def decide(self, parts: Sequence[Part], progress: Progress) -> dict[str, Any]:
        labels = {part.split: Counter(_labels(part, delayed(progress))) for part in parts}
        is_cut = self.sources[0].held_out > 0
        classes = assign_classes(labels, thing="text", validation_is_cut=is_cut)
        self._number_of = classes.number_of
        self.warnings += classes.warnings
        return {"classes": classes.names}

    def codec(self, split: str, lengths: Lengths | None = None) -> LabelledTextCodec:
        return LabelledTextCodec(self.settings.sequence_length, self.tokenizer.vocabulary_size)

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        codec, missing, count = self.codec(part.split), list[str](), 0
        around = len(self.tokenizer.framed(np.empty(0, np.int32)))
        if codec.length <= around:
            raise UsageError(
                f"data.sequence_length={codec.length} has no room for a text: this tokenizer puts "
                f"{around} tokens around each"
            )
        part.counts["cut"] = 0
        for group in in_blocks(self._texts(part), AT_ONCE):
            block = []
            for first, tokens in group:
                part.names.append(first["document"])
                if is_no_value(first["text"]):
                    missing.append(first["text"])
                if not len(tokens):
                    raise UsageError(f"{first['document']}: its text has no token")
                stored = self.tokenizer.framed(tokens, codec.length)
                if len(tokens) + around > codec.length:
                    part.counts["cut"] += 1
                    part.note(f"are longer than data.sequence_length={codec.length} and cut")
                count += len(stored)
                block.append((stored, self._number_of[first["label"]]))
            part.total += len(block)
            contents = [content_hash(tokens.data) for tokens, _ in block]
            part.contents.append(np.array(contents, np.uint64))
            yield codec.encode(block)
        part.counts["tokens"] = count
        part.warnings += no_values(missing, f"{part.total:,} texts of {part.split}")

    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        classes = tuple(self.decided["classes"])
        return DataSpec(
            vocabulary_size=self.tokenizer.vocabulary_size,
            max_length=self.settings.sequence_length,
            num_classes=len(classes),
            classes=classes,
        )

    def digested(self, hashes: Mapping[str, Any], parts: Sequence[Part]) -> Any:
        return super().digested(hashes, parts) | {"classes": self.decided["classes"]}

    def _texts(self, part: Part) -> Iterator[tuple[Mapping[str, Any], NDArray[np.int32]]]:
        """Yield, for each text, its first piece and the tokens of all its pieces."""
        stage, total = part.stage("tokenising"), len(part.examples)
        pieces = track(part.examples, part.progress, stage, total, "pieces", is_estimate=True)
        first, tokens = None, list[NDArray[np.int32]]()
        for document, ids in encode_documents(pieces, self.tokenizer):
            if document.index == 0:
                if first is not None:
                    yield first, np.concatenate(tokens)
                first, tokens = document.example, []
            tokens.append(ids)
        if first is not None:
            yield first, np.concatenate(tokens)


def _labels(part: Part, progress: Progress) -> Iterator[str]:
    """Yield the label of each text."""
    stage, total = part.stage("reading labels of"), len(part.examples)
    pieces = track(part.examples, progress, stage, total, "pieces", is_estimate=True)
    return (one["label"] for one in pieces if one["piece"] == 0)
