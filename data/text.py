"""Prepares text: cleans it, tokenizes it and packs it into windows."""

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, tee
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.inputs import TOKENIZER, tokenizer_file
from data import best_fit, cleaning, packing
from data.best_fit import BestFitCodec
from data.cache import digest
from data.cleaning import Pieces, clean
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, ExampleCodec, Split, join
from data.order import permutation
from data.packing import WindowCodec
from data.progress import Progress, silent, track
from data.records import write_records
from data.sources.source import RawSplits

TRAINING_BYTES = 2**26
"""Maximum size of the text that a tokenizer is trained on. If there is more text, random pieces are
used, chosen with a fixed seed."""

_TRAINED = {
    "bpe": Tokenizer.train_bpe,
    "unigram": Tokenizer.train_unigram,
    "wordpiece": Tokenizer.train_wordpiece,
    "words": Tokenizer.train_words,
}
METADATA_VERSION = 1
"""Part of the cache key. Increment it when the stored counts of a split change."""

DOCUMENTS_VERSION = 2
"""Part of the cache key if the tokenizer is a file. Increment it when documents are encoded in
other parts."""

DOCUMENT_BYTES = 2**23
"""A document of up to this size is encoded as a whole, a longer one in parts."""

_WORDS = re.compile(r".*\S(?=\s)", re.DOTALL)  # up to the last white space after a word

PIECES_AT_ONCE = 512  # read together; fewer would be slower. A piece has at most 32,768 characters


@dataclass(frozen=True)
class TextPreparation:
    """Prepares text as windows of tokens. settings: `config.data`, of a text source or mixture."""

    settings: Any

    def cache_key(self) -> dict[str, Any]:
        key = {
            "facts": METADATA_VERSION,
            "packing": self._packing_key(),
            "sequence_length": self.settings.sequence_length,
            "tokenizer": tokenizer_key(self.settings.tokenizer),
            **documents_key(self.settings.tokenizer),
        }
        if cleaning.is_on(self.settings.cleaning):
            steps = self.settings.cleaning.model_dump()
            key["cleaning"] = {"version": cleaning.VERSION, **steps}
        return key

    def write(
        self,
        sources: Sequence[RawSplits],
        folder: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        parts = [
            (number, split, records)
            for number, examples in enumerate(sources)
            for split, records in examples.items()
        ]
        cleaned, counts = clean([part[1:] for part in parts], self.settings.cleaning, progress)
        corpus = [(*part[:2], pieces) for part, pieces in zip(parts, cleaned, strict=True)]
        train = [one[2] for one in corpus if one[1] == "train"]
        tokenizer = make_tokenizer(self.settings.tokenizer, train, progress)
        tokenizer.save(folder / TOKENIZER)
        splits: dict[str, Any] = {}
        hashes: dict[str, Any] = {}
        for number, split, pieces in corpus:
            metadata, sha256 = self._write_split(number, split, pieces, tokenizer, folder, progress)
            if not metadata["examples"]:
                few = "give more text" + (", or clean less of it away" if counts else "")
                raise UsageError(f"the {self._part(split, number)} is no token long: {few}")
            if self._names:
                splits.setdefault(split, {"parts": []})["parts"].append([number, metadata])
                hashes.setdefault(split, []).append([number, sha256])
            else:
                splits[split], hashes[split] = metadata, sha256
        return {
            "fingerprint": digest({"records": hashes, "vocabulary": tokenizer.vocabulary()}),
            "splits": splits,
            "cleaning": counts,
        }

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        codec = self._codec(tokenizer)
        splits = {}
        for split, numbers in metadata["splits"].items():
            if "parts" not in numbers:
                splits[split] = self._split(split, self._file(folder, split, 0), codec, numbers)
                continue
            parts = [
                self._split(self._names[number], self._file(folder, split, number), codec, of)
                for number, of in numbers["parts"]
            ]
            weights = [self.settings.shares()[number] for number, _ in numbers["parts"]]
            splits[split] = join(split, parts, weights)
        return Dataset(
            fingerprint=metadata["fingerprint"],
            splits=splits,
            spec=DataSpec(
                vocabulary_size=tokenizer.vocabulary_size,
                max_length=codec.length,
                framing=tuple(tokenizer.framed(np.empty(0, np.int32)).tolist()) or None,
            ),
            tokenizer=tokenizer,
            cleaning=metadata.get("cleaning", {}),
            warnings=tuple(chain.from_iterable(map(_cut_lines, splits.values()))),
        )

    @staticmethod
    def _split(name: str, path: Path, codec: ExampleCodec, numbers: Mapping[str, Any]) -> Split:
        """Return a split. numbers: its stored counts. Text has as many tokens as targets."""
        return Split(name, path, codec, tokens=numbers["targets"], **numbers)

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of a mixture's parts; empty for a single source."""
        return self.settings.parts if self.settings.source == "mixture" else ()

    def _part(self, split: str, number: int) -> str:
        of = f" of {self._names[number]}" if self._names else " of the text"
        return f"{split} part{of}"

    def _file(self, folder: Path, split: str, number: int) -> Path:
        """Return the file of a split of source `number`."""
        return folder / f"{split}{f'-{number}' if self._names else ''}.array_record"

    def _write_split(
        self,
        number: int,
        split: str,
        pieces: Pieces,
        tokenizer: Tokenizer,
        folder: Path,
        progress: Progress,
    ) -> tuple[dict[str, Any], str]:
        """Write the windows of one split of one source; return its counts and the SHA-256."""
        codec, totals = self._codec(tokenizer), Totals(gzip=split != "train")
        stage = f"packing {split}" + (f" of {self._names[number]}" if self._names else "")
        around, room = len(tokenizer.framed(np.empty(0, np.int32))), None
        if isinstance(codec, BestFitCodec) and len(tokenizer.closing):
            room = max(codec.length - around, 1)  # for each part of a long document
        tokens = _tokens(stage, pieces, tokenizer, totals, progress, room)
        count, sha256 = write_records(self._file(folder, split, number), codec.pack(tokens))
        metadata = {"examples": count, **totals.metadata(codec.targets(totals.tokens))}
        if isinstance(codec, BestFitCodec) and count:
            metadata["padding"] = 1 - metadata["targets"] / (count * codec.length)
        return metadata, sha256

    def _packing_key(self) -> Any:
        if self.settings.packing == "windows":
            return packing.VERSION
        return {"best_fit": best_fit.VERSION, "block_tokens": best_fit.BLOCK_TOKENS}

    def _codec(self, tokenizer: Tokenizer) -> WindowCodec | BestFitCodec:
        length, size = self.settings.sequence_length, tokenizer.vocabulary_size
        if self.settings.packing == "best_fit":
            return BestFitCodec(length, size, tokenizer.separator_id)
        together = self.settings.cross_document_attention
        return WindowCodec(length, size, None if together else tokenizer.separator_id)


def tokenizer_key(settings: Any) -> dict[str, Any]:
    """Return everything that determines the tokenizer, except its training text, as JSON values.

    settings: `config.data.tokenizer`.

    Raises UsageError if the tokenizer's file can't be read.
    """
    key: dict[str, Any] = {"kind": settings.kind}
    if settings.kind in _TRAINED:
        key |= {"size": settings.vocabulary_size, "training_bytes": TRAINING_BYTES}
    if settings.kind == "file":
        key |= {"framed": True, "sha256": hashlib.sha256(_read_bytes(settings.path)).hexdigest()}
    return key


def documents_key(settings: Any) -> dict[str, Any]:
    """Return the part of the key that is for data in documents. settings: as `tokenizer_key`."""
    if settings.kind != "file":
        return {}
    return {"documents": {"version": DOCUMENTS_VERSION, "largest": DOCUMENT_BYTES}}


def make_tokenizer(settings: Any, train: Sequence[Pieces], progress: Progress) -> Tokenizer:
    """Build, train or load a tokenizer. settings: `config.data.tokenizer`.

    train: the training text, for each source.

    Raises UsageError if the tokenizer's file can't be loaded.
    """
    total = sum(map(len, train))
    match settings.kind:
        case "characters":
            all_texts = (text for of in train for block in of.blocks() for _, text in block)
            return Tokenizer.characters(
                track(all_texts, progress, "collecting characters", total, "pieces")
            )
        case "bytes":
            return Tokenizer.bytes()
        case kind if kind in _TRAINED:
            texts = track(_sample(train), progress, "counting words", total, "pieces")
            return _TRAINED[kind](texts, settings.vocabulary_size)
        case _:
            return _load(settings.path, "data.tokenizer.path")


def check_tokenizer(dataset: Dataset, workdir: Path) -> None:
    """Raise UsageError if the tokenizers of `dataset` and `workdir` have different vocabularies.

    The model in `workdir` would then read wrong tokens. Nothing is checked if one of the two
    tokenizers is missing.
    """
    path = tokenizer_file(workdir)
    if dataset.tokenizer is None or path is None:
        return
    if _load(path, "train.initialize_from").vocabulary() != dataset.tokenizer.vocabulary():
        raise UsageError(
            f"the model in {workdir} reads other tokens than these data have: set "
            f"--config.data.tokenizer.kind=file --config.data.tokenizer.path={path}"
        )


@dataclass(frozen=True)
class Part:
    """A part of a document that is encoded by itself; of most tokenizers, the whole document.

    index: its index in the document, from 0.
    is_cut: whether it begins where the ids may differ from those of the whole.
    example: the document's first raw example, if it was given.
    """

    index: int
    text: str
    is_cut: bool = False
    example: Any = None


def encode_documents(
    blocks: Iterable[Sequence[tuple[Any, ...]]],
    tokenizer: Tokenizer,
    progress: Progress = silent,
    stage: str = "",
    total: int = 0,
) -> Iterator[tuple[Part, NDArray[np.int32]]]:
    """Yield documents in parts, each with its ids, and report progress before each block.

    blocks: the documents as `Pieces.blocks` returns them; a third value becomes `example`.
    stage, total: as in `Progress`; the unit are pieces.

    Pieces are joined, except where it makes no difference to the ids. A document of more than
    `DOCUMENT_BYTES` is cut: at a word if this makes no difference, otherwise after a line, before
    the white space of a longer line, or anywhere in a longer word.
    """

    def pieces() -> Iterator[tuple[Any, ...]]:
        done = 0
        for block in blocks:
            progress(stage, done, total, "pieces")
            yield from block
            done += len(block)

    parts, again = tee(_parts(pieces(), tokenizer))
    ids = tokenizer.encode_each(part.text for part in again)
    yield from zip(parts, ids, strict=True)
    progress(stage, total, total, "pieces")


def _parts(pieces: Iterable[tuple[Any, ...]], tokenizer: Tokenizer) -> Iterator[Part]:
    """Yield the parts that are encoded by themselves. pieces: all pieces, in order."""
    texts, size, index, is_cut = list[str](), 0, 0, False
    example: Any = None
    for piece, text, *more in pieces:
        if texts and (piece == 0 or tokenizer.divides(texts[-1], text)):
            yield Part(index, "".join(texts), is_cut, example)
            texts, size, index, is_cut = [], 0, index + 1, False
        if piece == 0:
            index, example = 0, more[0] if more else None
        texts.append(text)
        size += len(text.encode())
        while size > DOCUMENT_BYTES:
            whole = "".join(texts)
            stop = _stop(whole, tokenizer)
            yield Part(index, whole[:stop], is_cut, example)
            texts, index = [whole[stop:]], index + 1
            size, is_cut = len(texts[0].encode()), not tokenizer.divides(whole[:stop], texts[0])
    if texts:
        yield Part(index, "".join(texts), is_cut, example)


def _stop(text: str, tokenizer: Tokenizer) -> int:
    """Return the number of characters in the first part of `text`, up to `DOCUMENT_BYTES`."""
    most = text.encode()[:DOCUMENT_BYTES].decode(errors="ignore")
    words = _WORDS.match(most)
    word = words.end() if words else 0
    if word and tokenizer.divides(text[:word], text[word:]):
        return word
    return most.rfind("\n") + 1 or word or len(most)


def _cut_lines(split: Split) -> Iterator[str]:
    """Yield a warning for each source of `split` with documents that were cut."""
    for part in split.parts or (split,):
        if part.cut:
            of = f" of {part.name}" if split.parts else ""
            yield (
                f"{part.cut:,} of {part.documents:,} documents of {split.name}{of} are larger than "
                f"{DOCUMENT_BYTES / 2**20:g} MiB, and encoded in parts: tokens at the cuts may "
                "differ from those of the whole"
            )


@dataclass
class Totals:
    """Counts the documents, bytes and tokens of a split, part by part.

    gzip: whether to compress each document as `gzip -9` does, to measure its compressed size.
    """

    gzip: bool
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    unknown: int = 0
    _cut: set[int] = field(default_factory=set)  # the numbers of documents that were cut
    _compressed: int = 0
    _compressor: Any = field(default=None, repr=False)

    def add(self, part: Part, tokens: int, unknown: int) -> None:
        """Count a part of a document. tokens, unknown: its number of tokens and of unknown
        tokens."""
        content = part.text.encode()
        self.documents += part.index == 0
        self._cut |= {self.documents} if part.is_cut else set()
        self.bytes += len(content)
        self.tokens += tokens
        self.unknown += unknown
        if self.gzip:
            if part.index == 0:
                self._end_document()
                self._compressor = zlib.compressobj(9, wbits=31)  # 31: a gzip file
            self._compressed += len(self._compressor.compress(content))

    def metadata(self, targets: int) -> dict[str, Any]:
        """Return `documents`, `bytes`, `targets`, `unknown` and `gzip_bits_per_byte` of the split,
        and `cut` if any document was.

        targets: the number of targets, which depends on packing. gzip_bits_per_byte is None without
        `gzip`, and with unknown tokens, because a model's bits per byte are then not comparable.
        """
        self._end_document()
        compared = self.gzip and self.bytes and not self.unknown
        bits = 8 * self._compressed / self.bytes if compared else None
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "targets": targets,
            "unknown": self.unknown,
            "gzip_bits_per_byte": bits,
            **({"cut": len(self._cut)} if self._cut else {}),
        }

    def _end_document(self) -> None:
        if self._compressor is not None:
            self._compressed += len(self._compressor.flush())
        self._compressor = None


def _tokens(
    stage: str,
    pieces: Pieces,
    tokenizer: Tokenizer,
    totals: Totals,
    progress: Progress,
    room: int | None,
) -> Iterator[NDArray[np.int32]]:
    """Yield the ids of all documents in order, with opening and closing tokens around each.

    room: if given, documents are split into parts of at most this many tokens, and the opening and
    closing tokens are put around each part.
    """
    opening, closing = tokenizer.document_opening, tokenizer.closing
    begun, left, unknown = False, room, tokenizer.unknown_id
    blocks = pieces.blocks(PIECES_AT_ONCE)
    for part, ids in encode_documents(blocks, tokenizer, progress, stage, len(pieces)):
        left = room if part.index == 0 else left
        stretches, tokens = _stretches(ids, left, room), len(ids)
        for number, stretch in enumerate(stretches):
            if part.index and number == 0:
                yield stretch
                continue
            if begun and len(closing):
                yield closing
            yield np.concatenate([opening, stretch])
            begun, tokens = True, tokens + len(opening) + len(closing)
        totals.add(part, tokens, unknown=int(np.count_nonzero(ids == unknown)))
        if room is not None:
            left = (room if left is None or stretches[1:] else left) - len(stretches[-1])
    if begun and len(closing):
        yield closing


def _stretches(
    ids: NDArray[np.int32], left: int | None, room: int | None
) -> list[NDArray[np.int32]]:
    """Split `ids` into the first `left` tokens, then `room` at a time; don't split if None."""
    if left is None or room is None:
        return [ids]
    return np.split(ids, range(left, len(ids), room))


def _sample(train: Sequence[Pieces]) -> Iterator[str]:
    """Yield random pieces of all sources in `train`, up to `TRAINING_BYTES` in total."""
    stops = np.cumsum([len(pieces) for pieces in train])
    order = permutation(np.arange(stops[-1]), size=stops[-1], seed=0, epoch=0)
    read = 0
    for start in range(0, len(order), PIECES_AT_ONCE):
        for _, text in _read(train, stops, order[start : start + PIECES_AT_ONCE]):
            read += len(text.encode())
            if read > TRAINING_BYTES:
                return
            yield text


def _read(
    train: Sequence[Pieces], stops: NDArray[np.int64], numbers: NDArray[np.int64]
) -> list[tuple[int, str]]:
    """Return pieces by number, counted over all sources. stops: where each source ends."""
    sources = np.searchsorted(stops, numbers, side="right")
    found: list[Any] = [None] * len(numbers)
    for source in np.unique(sources):
        (mine,) = np.nonzero(sources == source)
        first = stops[source] - len(train[source])
        texts = train[source].read((numbers[mine] - first).tolist())
        for place, text in zip(mine, texts, strict=True):
            found[place] = text
    return found


def _load(path: str | Path, setting: str) -> Tokenizer:
    try:
        return Tokenizer.load(path)
    except ValueError as error:
        raise UsageError(f"{setting}: {error}") from None


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(f"data.tokenizer.path={path} can't be read: {error.strerror}") from None
