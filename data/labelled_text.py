"""Prepares labelled texts as records of tokens.

Each text gets the tokens that the tokenizer puts around every text, such as [CLS] and [SEP], and is
cut or padded to `data.sequence_length`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data.cache import digest
from data.classes import (
    alike,
    class_names,
    classes_of,
    describe_joined_labels,
    is_no_value,
    many,
    no_values,
)
from data.cleaning import Pieces
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, ExampleCodec, Split, token_type
from data.progress import Progress, read_blocks
from data.records import write_names, write_records
from data.sources.source import RawExamples, RawSplits
from data.sources.tables import listed_names
from data.text import (
    PIECES_AT_ONCE,
    TOKENIZER,
    documents_key,
    encode_documents,
    make_tokenizer,
    tokenizer_key,
)

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

    def encode(self, tokens: NDArray[np.int32], label: int) -> NDArray[Any]:
        """Return the record, `dtype` [1], of a text with these tokens and this class. Tokens after
        the first T are dropped."""
        record = np.zeros(1, self.dtype)
        count = min(len(tokens), self.length)
        record["tokens"][0, :count], record["count"], record["label"] = tokens[:count], count, label
        return record


@dataclass(frozen=True)
class LabelledTextPreparation:
    """Prepares labelled texts.

    source: the source of the texts.
    settings: `config.data`.
    """

    source: Any
    settings: Any

    def cache_key(self) -> dict[str, Any]:
        return {
            "labelled_text": VERSION,
            "sequence_length": self.settings.sequence_length,
            "tokenizer": tokenizer_key(self.settings.tokenizer),
            **documents_key(self.settings.tokenizer),
        }

    def write(
        self, sources: Sequence[RawSplits], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        (splits,) = sources
        written = {split: _labels(records) for split, records in splits.items()}
        class_of = classes_of(label for of in written.values() for label in of)
        labels = {split: {class_of[label] for label in of} for split, of in written.items()}
        cut_out = bool(self.source.held_out)
        classes = class_names(
            labels, things="text", validation_is_cut=cut_out, notes=describe_joined_labels(class_of)
        )
        tokenizer = make_tokenizer(self.settings.tokenizer, [Pieces(splits["train"])], progress)
        tokenizer.save(folder / TOKENIZER)
        codec, metadata, hashes = self._codec(tokenizer), {}, {}
        notes = [*describe_joined_labels(class_of)]
        number_of = {name: number for number, name in enumerate(classes)}
        numbers = {label: number_of[name] for label, name in class_of.items()}
        around = len(tokenizer.framed(np.empty(0, np.int32)))
        if codec.length <= around:
            raise UsageError(
                f"data.sequence_length={codec.length} has no room for a text: this tokenizer puts "
                f"{around} tokens around each"
            )
        for split, records in splits.items():
            cut, names, counts, missing = list[str](), list[str](), list[int](), list[str]()
            texts = _texts(f"tokenising {split}", records, tokenizer, progress)
            path, blocks = (
                folder / f"{split}.array_record",
                _store(texts, codec, tokenizer, numbers, names, cut, counts, missing),
            )
            count, hashes[split] = write_records(path, blocks)
            write_names(path, names)
            notes += no_values(missing, f"{count:,} texts of {split}")
            metadata[split] = {"examples": count, "cut": len(cut), "tokens": sum(counts)}
        decided = {"records": hashes, "vocabulary": tokenizer.vocabulary(), "classes": classes}
        lost = sorted(set(classes) - labels["train"])
        fingerprint = digest(decided)
        return {"fingerprint": fingerprint, "splits": metadata, "classes": classes, "lost": lost,
                "joined": notes}  # fmt: skip

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        tokenizer, classes = Tokenizer.load(folder / TOKENIZER), tuple(metadata["classes"])
        codec = self._codec(tokenizer)
        splits = {
            name: Split(name, folder / f"{name}.array_record", codec, **numbers)
            for name, numbers in metadata["splits"].items()
        }
        spec = DataSpec(
            vocabulary_size=tokenizer.vocabulary_size,
            max_length=codec.length,
            num_classes=len(classes),
            classes=classes,
        )
        warnings = [*metadata["joined"]]
        if lost := metadata["lost"]:
            warnings.append(
                f"every text labelled {listed_names(lost)} is held out: training sees none"
            )
        warnings += alike(classes)
        warnings += many(classes, sum(one.examples for one in splits.values()), "texts")
        warnings += [
            f"{one.cut:,} of {one.examples:,} texts of {name} are longer than "
            f"data.sequence_length={codec.length} and cut"
            for name, one in splits.items()
            if one.cut
        ]
        return Dataset(metadata["fingerprint"], splits, spec, tokenizer, warnings=tuple(warnings))

    def _codec(self, tokenizer: Tokenizer) -> LabelledTextCodec:
        return LabelledTextCodec(self.settings.sequence_length, tokenizer.vocabulary_size)


def _labels(records: RawExamples) -> set[str]:
    blocks = read_blocks(records, PIECES_AT_ONCE)
    return {one["label"].decode() for block in blocks for one in block}


def _texts(
    stage: str, records: RawExamples, tokenizer: Tokenizer, progress: Progress
) -> Iterator[tuple[dict[str, Any], NDArray[np.int32]]]:
    """Yield, for each text, its first piece and the tokens of all its pieces."""
    blocks = (
        [(int(one["piece"]), one["text"].decode(), one) for one in block]
        for block in read_blocks(records, PIECES_AT_ONCE)
    )
    first, tokens = None, list[NDArray[np.int32]]()
    for part, ids in encode_documents(blocks, tokenizer, progress, stage, len(records)):
        if part.index == 0:
            if first is not None:
                yield first, np.concatenate(tokens)
            first, tokens = part.example, []
        tokens.append(ids)
    if first is not None:
        yield first, np.concatenate(tokens)


def _store(
    texts: Iterator[tuple[dict[str, Any], NDArray[np.int32]]],
    codec: LabelledTextCodec,
    tokenizer: Tokenizer,
    numbers: Mapping[str, int],
    names: list[str],
    cut: list[str],
    counts: list[int],
    missing: list[str],
) -> Iterator[NDArray[Any]]:
    """Yield the records of `texts`. numbers: the number of each label's class.

    Appends to four lists: the name of each text to `names`, the name of each text that was cut to
    `cut`, the number of tokens that were kept to `counts`, and each text that seems to be a missing
    one to `missing`.
    """
    for first, tokens in texts:
        names.append(first["document"].decode())
        if is_no_value(text := first["text"].decode()):
            missing.append(text)
        if not len(tokens):
            raise UsageError(f"{names[-1]}: its text has no token")
        stored = tokenizer.framed(tokens)
        if len(stored) > codec.length:
            cut.append(names[-1])
            stored = tokenizer.framed(tokens, codec.length)
        counts.append(len(stored))
        yield codec.encode(stored, numbers[first["label"].decode()])
