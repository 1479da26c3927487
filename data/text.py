"""Text to windows of tokens: cleaning, the tokenizer, then packing."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import UsageError
from data import best_fit, cleaning, packing
from data.best_fit import BestFitFormat
from data.cache import digest
from data.cleaning import Pieces, clean
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, Split
from data.order import permutation
from data.packing import WindowFormat
from data.progress import Progress, track
from data.records import write_records

TRAINING_BYTES = 2**26
"""Of text that byte-pair encoding is learnt from: of more, pieces in a fixed random order."""

_PIECES_AT_ONCE = 64
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class TextPreparation:
    """Writes a split's windows; `settings` are those of a source of text."""

    settings: Any

    def inputs(self) -> dict[str, Any]:
        tokenizer = self.settings.tokenizer
        facts: dict[str, Any] = {"kind": tokenizer.kind}
        if tokenizer.kind == "bpe":
            facts |= {"size": tokenizer.vocabulary_size, "training_bytes": TRAINING_BYTES}
        if tokenizer.kind == "file":
            facts |= {"sha256": hashlib.sha256(_read_bytes(tokenizer.path)).hexdigest()}
        inputs = {
            "packing": self._packing_facts(),
            "sequence_length": self.settings.sequence_length,
            "tokenizer": facts,
        }
        if cleaning.is_on(self.settings.cleaning):
            steps = self.settings.cleaning.model_dump()
            inputs["cleaning"] = {"version": cleaning.VERSION, **steps}
        return inputs

    def write(
        self, examples: Mapping[str, Sequence[dict[str, Any]]], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        cleaned, counts = clean([*examples.items()], self.settings.cleaning, progress)
        corpus = dict(zip(examples, cleaned, strict=True))
        tokenizer = self._make_tokenizer(corpus["train"], progress)
        tokenizer.save(folder / _TOKENIZER)
        form = self._format(tokenizer)
        splits, hashes = {}, {}
        for split, pieces in corpus.items():
            totals = Totals(gzip=split != "train")
            tokens = _tokens(split, pieces, tokenizer, totals, progress)
            path = folder / f"{split}.array_record"
            count, hashes[split] = write_records(path, form.pack(tokens))
            if not count:
                few = "give more text" + (", or clean less of it away" if counts else "")
                raise UsageError(f"the {split} part of the text is no token long: {few}")
            splits[split] = {"examples": count, **totals.facts(form.targets(totals.tokens))}
            if isinstance(form, BestFitFormat):
                full = count * form.length
                splits[split]["padding"] = 1 - splits[split]["targets"] / full
        return {
            "fingerprint": digest({"records": hashes, "vocabulary": tokenizer.vocabulary()}),
            "splits": splits,
            "cleaning": counts,
        }

    def open(self, folder: Path, facts: Mapping[str, Any]) -> Dataset:
        tokenizer = Tokenizer.load(folder / _TOKENIZER)
        form = self._format(tokenizer)
        return Dataset(
            fingerprint=facts["fingerprint"],
            splits={
                name: Split(name, folder / f"{name}.array_record", form, **numbers)
                for name, numbers in facts["splits"].items()
            },
            sizes={"vocabulary_size": tokenizer.vocabulary_size, "max_length": form.length},
            tokenizer=tokenizer,
            cleaning=facts.get("cleaning", {}),
        )

    def _packing_facts(self) -> Any:
        if self.settings.packing == "windows":
            return packing.VERSION
        return {"best_fit": best_fit.VERSION, "block_tokens": best_fit.BLOCK_TOKENS}

    def _format(self, tokenizer: Tokenizer) -> WindowFormat | BestFitFormat:
        length, size = self.settings.sequence_length, tokenizer.vocabulary_size
        if self.settings.packing == "best_fit":
            return BestFitFormat(length, size, tokenizer.separator_id)
        together = self.settings.cross_document_attention
        return WindowFormat(length, size, None if together else tokenizer.separator_id)

    def _make_tokenizer(self, train: Pieces, progress: Progress) -> Tokenizer:
        """The tokenizer that the settings ask for, learnt from the training part."""
        settings = self.settings.tokenizer
        match settings.kind:
            case "characters":
                texts = (text for block in train.blocks() for _, text in block)
                return Tokenizer.characters(
                    track(texts, progress, "collecting characters", len(train), "pieces")
                )
            case "bytes":
                return Tokenizer.bytes()
            case "bpe":
                texts = track(_sample(train), progress, "counting words", len(train), "pieces")
                return Tokenizer.train_bpe(texts, settings.vocabulary_size)
            case "file":
                try:
                    return Tokenizer.load(settings.path)
                except ValueError as error:
                    raise UsageError(f"data.tokenizer.path: {error}") from None


@dataclass
class Totals:
    """What a split holds, counted as its pieces go by.

    gzip: whether to compress its documents too, each by itself, as `gzip -9` would.
    """

    gzip: bool
    bytes: int = 0
    tokens: int = 0
    _compressed: int = 0
    _compressor: Any = field(default=None, repr=False)

    def add(self, piece: int, text: str, tokens: int) -> None:
        """Counts piece number `piece` of a document, which is `tokens` long."""
        content = text.encode()
        self.bytes += len(content)
        self.tokens += tokens
        if self.gzip:
            if piece == 0:
                self._end_document()
                self._compressor = zlib.compressobj(9, wbits=31)  # 31: a gzip file
            self._compressed += len(self._compressor.compress(content))

    def facts(self, targets: int) -> dict[str, Any]:
        """`bytes`, `targets` and `gzip_bits_per_byte` of the split."""
        self._end_document()
        bits = 8 * self._compressed / self.bytes if self.gzip else None
        return {"bytes": self.bytes, "targets": targets, "gzip_bits_per_byte": bits}

    def _end_document(self) -> None:
        if self._compressor is not None:
            self._compressed += len(self._compressor.flush())
        self._compressor = None


def _tokens(
    split: str, pieces: Pieces, tokenizer: Tokenizer, totals: Totals, progress: Progress
) -> Iterator[NDArray[np.int32]]:
    """The ids of all pieces in order, the separator before each document."""
    separator = np.array([tokenizer.separator_id], np.int32)
    stage, total, done = f"packing {split}", len(pieces), 0
    for block in pieces.blocks(_PIECES_AT_ONCE):
        progress(stage, done, total, "pieces")
        ids_of_each = tokenizer.encode_many([text for _, text in block])
        for (place, text), ids in zip(block, ids_of_each, strict=True):
            opens = place == 0
            totals.add(place, text, len(ids) + opens)
            yield np.concatenate([separator, ids]) if opens else ids
        done += len(block)
    progress(stage, total, total, "pieces")


def _sample(train: Pieces) -> Iterator[str]:
    """Texts of `train` up to `TRAINING_BYTES`, from all over it."""
    read = 0
    for number in permutation(np.arange(len(train)), size=len(train), seed=0, epoch=0):
        ((_, text),) = train.read([int(number)])
        read += len(text.encode())
        if read > TRAINING_BYTES:
            return
        yield text


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"data.tokenizer.path={path} can't be read: {error.strerror}") from None
