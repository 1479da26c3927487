"""Prepares examples of any kind: writes the records of each split to a folder, and opens them.

What is particular to a kind of example is in its subclass of `Preparation`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.inputs import TOKENIZER
from data.broken import Broken
from data.cache import digest
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, ExampleCodec, Split, join
from data.length_buckets import Lengths, open_lengths, write_lengths
from data.progress import Progress, in_blocks
from data.records import RecordWriter, write_names
from data.sources.source import Examples, Source
from data.tokenizer_training import make_tokenizer, tokenizer_key


@dataclass
class Part:
    """The examples of one source in one split, and what is found out while they are stored.

    split: the name of the split.
    source: the number of the source; `source_name` is its name in a mixture, else "".
    examples: the raw examples.
    things: the plural noun for them in messages, such as "pairs".
    broken: counts the broken examples of all parts.

    total: the number of raw examples, which messages compare with.
    written: the number of records that were written so far.
    names: the names of the examples; empty if they have none.
    lengths: the lengths of the examples, int32 [examples, L] for each block; empty if batches are
        not padded to varying lengths.
    contents: the `content_hash` of each record, uint64 [examples] for each block; empty if it does
        not matter which ones are in training too.
    counts: fields of `Split`, by name.
    warnings: messages for the user, besides those of `note`.
    """

    split: str
    source: int
    source_name: str
    examples: Examples
    things: str
    broken: Broken
    progress: Progress
    total: int = 0
    written: int = 0
    names: list[str] = field(default_factory=list)
    lengths: list[NDArray[np.int32]] = field(default_factory=list)
    contents: list[NDArray[np.uint64]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _notes: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    def stage(self, doing: str) -> str:
        """Return the name of a stage of `Progress`, such as "packing train"."""
        return f"{doing} {self.split}" + (f" of {self.source_name}" if self.source_name else "")

    def read(self, doing: str, size: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the raw examples in lists of `size`, count them, and report progress.

        doing: the verb for this stage, such as "decoding".
        """
        stage, total = self.stage(doing), len(self.examples)
        for block in in_blocks(self.examples, size, self.progress, stage, total, self.things):
            self.total += len(block)
            yield block

    def note(self, what: str, first: str = "", *, count: int = 1, things: str = "") -> None:
        """Count `count` examples for the warning "COUNT of TOTAL THINGS of SPLIT WHAT; such as
        FIRST".

        first: the name of an example; the first that is given is told.
        things: the plural noun, if it is not that of the examples.
        """
        if count:
            such = f"; such as {first}" if first else ""
            known, such = self._notes.get((things or self.things, what), (0, such))
            self._notes[things or self.things, what] = known + count, such

    def noted(self) -> list[tuple[str, int]]:
        """Return what was noted, and how many examples it is true of."""
        return [(what, count) for (_, what), (count, _) in self._notes.items()]

    def lines(self) -> list[str]:
        """Return all warnings about this part."""
        return _lines(self.stored(), self.source_name)

    def stored(self) -> dict[str, Any]:
        """Return what is stored of this part, as JSON values."""
        return {
            "split": self.split,
            "source": self.source,
            "total": self.total,
            "counts": self.counts,
            "notes": [[*key, *value] for key, value in self._notes.items()],
            "warnings": self.warnings,
        }


NO_CONTENT = 0
"""In place of a `content_hash`, for examples that count for nothing."""


def content_hash(content: bytes | memoryview) -> int:
    """Return a hash of what a model sees of an example, of 64 bits. `NO_CONTENT` is none."""
    return int.from_bytes(blake2b(content, digest_size=8).digest()) or 1


class Preparation(ABC):
    """How one kind of example is prepared. Each kind has a subclass.

    sources: the sources of the examples; only a mixture has several.
    settings: `config.data`.
    decided: JSON values that the records of all splits depend on, such as the names of classes.
    warnings: messages for the user about all splits.
    """

    things: ClassVar[str]
    """Plural noun for the raw examples in messages."""
    layout: ClassVar[int] = 2
    """Part of the name of a folder of prepared data. Increment it when the files, the counts or the
    warnings of this kind change, but not the records."""

    def __init__(self, sources: Sequence[Source], settings: Any):
        self.sources, self.settings = sources, settings
        self.decided: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._tokenizer: Tokenizer | None = None
        self._learnt = np.empty(0, np.uint64)  # the hashes of the contents of train
        self._names = settings.parts if settings.source == "mixture" else ()

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Return all that determines the records, except examples and tokenizer, as JSON values."""

    @abstractmethod
    def codec(self, split: str, lengths: Lengths | None = None) -> ExampleCodec:
        """Return the codec of the records of a split. lengths: those of the examples, if there are
        any and they are written."""

    @abstractmethod
    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        """Yield the records of `part` in blocks, and set its names, lengths, counts and messages.

        Raises UsageError if nothing is left.
        """

    @abstractmethod
    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        """Return the sizes that a model needs. splits: the opened splits."""

    def decide(self, parts: Sequence[Part], progress: Progress) -> dict[str, Any]:
        """Return `decided`, before a tokenizer is made and anything is written."""
        return {}

    def texts(self, part: Part) -> Iterator[str]:
        """Yield the texts of `part` that a tokenizer is trained on."""
        return (one["text"] for one in part.examples)

    def last_warnings(self) -> Iterable[str]:
        """Return messages about all splits, after everything is written."""
        return ()

    def digested(self, hashes: Mapping[str, Any], parts: Sequence[Part]) -> Any:
        """Return JSON values whose hash is the fingerprint. hashes: those of the records of each
        split."""
        return {"records": hashes, "vocabulary": self.tokenizer.vocabulary()}

    def padding(self, codec: ExampleCodec, lengths: Lengths) -> float:
        """Return the share of padding in training batches."""
        return lengths.padding(self.settings.global_batch_size)

    @property
    def length_buckets(self) -> int:
        """The most lengths that batches are padded to; 0 if all have the same length."""
        return 0

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, once it is made or opened. Only for data with tokens."""
        assert self._tokenizer is not None
        return self._tokenizer

    def cache_key(self) -> dict[str, Any]:
        """Return all that determines the records, except the examples, as JSON values."""
        if self.settings.has_tokenizer:
            return self.key() | {"tokenizer": tokenizer_key(self.settings.tokenizer)}
        return self.key()

    def write(self, folder: Path, progress: Progress) -> dict[str, Any]:
        """Write the records of each split into `folder`. Return metadata for `open`, as JSON
        values."""
        parts = self._parts(progress)
        self.decided = self.decide(parts, progress)
        if self.settings.has_tokenizer:
            self._make_tokenizer([part for part in parts if part.split == "train"], progress)
            self.tokenizer.save(folder / TOKENIZER)
        hashes: dict[str, Any] = {}
        for part in parts:
            sha256 = self._write(part, self._file(folder, part.split, part.source))
            if self._names:
                hashes.setdefault(part.split, []).append([part.source, sha256])
            else:
                hashes[part.split] = sha256
        self._check_broken(parts)
        return {
            "fingerprint": digest(self.digested(hashes, parts)),
            "decided": self.decided,
            "warnings": [*self.warnings, *self.last_warnings()],
            "broken": parts[0].broken.messages,
            "parts": [part.stored() for part in parts],
        }

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        """Open the data that `write` wrote. metadata: what `write` returned.

        Raises UsageError if too many examples are broken.
        """
        self.decided, warnings = metadata["decided"], [*metadata["warnings"]]
        if self.settings.has_tokenizer:
            self._tokenizer = Tokenizer.load(folder / TOKENIZER)
        parts: dict[str, list[tuple[int, Split]]] = {}
        for stored in metadata["parts"]:
            split, source = stored["split"], stored["source"]
            opened = self._open(split, self._file(folder, split, source), stored["counts"])
            parts.setdefault(split, []).append((source, opened))
            warnings += _lines(stored, self._names[source] if self._names else "")
        splits = {split: self._joined(split, of) for split, of in parts.items()}
        if self.settings.may_break:
            allowed, messages = self.settings.broken_fraction, metadata["broken"]
            total = sum(split.examples + (split.left_out or 0) for split in splits.values())
            count = sum(split.broken or 0 for split in splits.values())
            broken = Broken(self.things, total, allowed, count, messages)
            broken.check()
            warnings += broken.lines()
        return Dataset(
            fingerprint=metadata["fingerprint"],
            splits=splits,
            spec=self.spec(splits),
            tokenizer=self._tokenizer,
            cleaning=self.decided.get("cleaning", {}),
            warnings=tuple(warnings),
        )

    def _parts(self, progress: Progress) -> list[Part]:
        """Return all parts that have labels."""
        allowed = self.settings.broken_fraction if self.settings.may_break else 0.0
        broken = Broken(self.things, 0, allowed)
        parts = []
        for number, source in enumerate(self.sources):
            name = self._names[number] if self._names else ""
            for split, examples in source.splits.items():
                if self.settings.may_break and split != "train" and not _has_labels(examples):
                    self.warnings.append(f"{split} has no labels, and is left out")
                    continue
                broken.total += len(examples) if self.settings.may_break else 0
                parts.append(Part(split, number, name, examples, self.things, broken, progress))
        return parts

    def _make_tokenizer(self, train: Sequence[Part], progress: Progress) -> None:
        read = lambda: chain.from_iterable(map(self.texts, train))  # noqa: E731
        count = sum(len(part.examples) for part in train)
        self._tokenizer = make_tokenizer(self.settings.tokenizer, read, count, progress)

    def _write(self, part: Part, path: Path) -> str:
        """Write the records, names and lengths of `part`. Return the hash of the records."""
        before = part.broken.count
        with RecordWriter(path) as writer:
            for block in self.blocks(part):
                part.written += len(block)
                writer.write(block)
        part.counts["examples"] = part.written
        if self.settings.may_break:
            part.counts["broken"] = part.broken.count - before
        if part.names:
            write_names(path, part.names)
        if part.lengths:
            write_lengths(path, np.concatenate(part.lengths))
        self._tell_copies(part)
        return writer.sha256

    def _tell_copies(self, part: Part) -> None:
        """Warn of examples that are in train too, whose records were written before."""
        contents = np.concatenate([np.empty(0, np.uint64), *part.contents])
        if part.split == "train":
            self._learnt = contents
            return
        (copies,) = np.nonzero(np.isin(contents, self._learnt) & (contents != NO_CONTENT))
        if copies.size:
            name = part.names[copies[0]] if part.names else f"number {copies[0]}"
            part.warnings.append(
                f"{copies.size:,} of {part.written:,} {self.things} of {part.split} are in train "
                f"too, such as {name}: what they measure was learnt by heart"
            )

    def _check_broken(self, parts: Sequence[Part]) -> None:
        """Raise UsageError if too many examples are broken, or all examples of a part."""
        parts[0].broken.check()
        for part in parts:
            if part.written == part.counts.get("broken"):
                raise UsageError(
                    f"all {part.written:,} {self.things} of {part.split} are broken: "
                    f"{'; '.join(part.broken.messages)}"
                )

    def _open(self, split: str, path: Path, counts: Mapping[str, Any]) -> Split:
        lengths = open_lengths(path, self.length_buckets)
        codec, counts = self.codec(split, lengths), dict(counts)
        if lengths is not None and split == "train":
            counts["padding"] = self.padding(codec, lengths)
        return Split(split, path, codec, lengths=lengths, **counts)

    def _joined(self, split: str, parts: Sequence[tuple[int, Split]]) -> Split:
        if not self._names:
            return parts[0][1]
        named = [replace(part, name=self._names[source]) for source, part in parts]
        return join(split, named, [self.settings.shares()[source] for source, _ in parts])

    def _file(self, folder: Path, split: str, source: int) -> Path:
        """Return the file of the records of a split, of a mixture's source number `source`."""
        return folder / f"{split}{f'-{source}' if self._names else ''}.array_record"


def _has_labels(examples: Examples) -> bool:
    """Return whether examples have transcripts or labels: test data of competitions may have -1."""
    return any(one.get("label") != -1 for one in islice(examples, 1))


def _lines(stored: Mapping[str, Any], source_name: str) -> list[str]:
    """Return the warnings about a part. stored: the result of `Part.stored`."""
    of = stored["split"] + (f" of {source_name}" if source_name else "")
    noted = [
        f"{count:,} of {stored['total']:,} {things} of {of} {what}{such}"
        for things, what, count, such in stored["notes"]
    ]
    return [*noted, *stored["warnings"]]
