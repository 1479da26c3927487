"""Prepares text: cleans it, tokenizes it and packs it into windows."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data import best_fit, cleaning, document_encoding, packing
from data.best_fit import BestFitCodec
from data.dataset import Split
from data.document_encoding import DocumentPart, documents_key, encode_documents
from data.driver import Part, Preparation
from data.length_buckets import Lengths
from data.packing import WindowCodec
from data.progress import Progress, track

METADATA_VERSION = 1
"""Part of the cache key. Increment it when the counts of a split are counted otherwise."""


class TextPreparation(Preparation):
    """Prepares text as windows of tokens. A raw example is a piece of a document: its `document`
    (the name), `piece` (the number) and `text`."""

    things = "documents"

    def key(self) -> dict[str, Any]:
        key = {
            "facts": METADATA_VERSION,
            "packing": self._packing_key(),
            "sequence_length": self.settings.sequence_length,
            **documents_key(self.settings.tokenizer),
        }
        if cleaning.is_on(self.settings.cleaning):
            steps = self.settings.cleaning.model_dump()
            key["cleaning"] = {"version": cleaning.VERSION, **steps}
        return key

    def decide(self, parts: Sequence[Part], progress: Progress) -> dict[str, Any]:
        texts = [(part.split, part.examples) for part in parts]
        cleaned, counts = cleaning.clean(texts, self.settings.cleaning, progress)
        for part, examples in zip(parts, cleaned, strict=True):
            part.examples = examples
        return {"cleaning": counts}

    def codec(self, split: str, lengths: Lengths | None = None) -> WindowCodec | BestFitCodec:
        length, size = self.settings.sequence_length, self.tokenizer.vocabulary_size
        if self.settings.packing == "best_fit":
            return BestFitCodec(length, size, self.tokenizer.separator_id)
        together = self.settings.cross_document_attention
        return WindowCodec(length, size, None if together else self.tokenizer.separator_id)

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        codec, counts = self.codec(part.split), _Counts(gzip=part.split != "train")
        yield from codec.pack(self._tokens(part, codec, counts))
        if not part.written:
            of = f" of {part.source_name}" if part.source_name else " of the text"
            few = "give more text" + (", or clean less of it away" * bool(self.decided["cleaning"]))
            raise UsageError(f"the {part.split} part{of} is no token long: {few}")
        part.total = counts.documents
        part.counts = counts.of_split(codec.targets(counts.tokens))
        if isinstance(codec, BestFitCodec):
            part.counts["padding"] = 1 - part.counts["targets"] / (part.written * codec.length)
        if counts.cut:
            part.counts["cut"] = len(counts.cut)
            size = document_encoding.DOCUMENT_BYTES / 2**20
            part.note(
                f"are larger than {size:g} MiB, and encoded in parts: tokens at the cuts may "
                "differ from those of the whole",
                count=len(counts.cut),
            )

    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        return DataSpec(
            vocabulary_size=self.tokenizer.vocabulary_size,
            max_length=self.settings.sequence_length,
            framing=tuple(self.tokenizer.framed(np.empty(0, np.int32)).tolist()) or None,
        )

    def _packing_key(self) -> Any:
        if self.settings.packing == "windows":
            return packing.VERSION
        return {"best_fit": best_fit.VERSION, "block_tokens": best_fit.BLOCK_TOKENS}

    def _tokens(
        self, part: Part, codec: WindowCodec | BestFitCodec, counts: "_Counts"
    ) -> Iterator[NDArray[np.int32]]:
        """Yield the ids of all documents in order, with opening and closing tokens around each.

        In best-fit packing, a document that is longer than a window is split, and these tokens are
        put around each stretch, if the tokenizer has closing tokens.
        """
        tokenizer = self.tokenizer
        opening, closing = tokenizer.document_opening, tokenizer.closing
        room = None  # tokens of a stretch
        if isinstance(codec, BestFitCodec) and len(closing):
            around = len(tokenizer.framed(np.empty(0, np.int32)))
            room = max(codec.length - around, 1)
        begun, left = False, room
        unknown = -1 if tokenizer.unknown_id is None else tokenizer.unknown_id
        stage, total = part.stage("packing"), len(part.examples)
        pieces = track(part.examples, part.progress, stage, total, "pieces", is_estimate=True)
        for document, ids in encode_documents(pieces, tokenizer):
            left = room if document.index == 0 else left
            stretches, tokens = _stretches(ids, left, room), len(ids)
            for number, stretch in enumerate(stretches):
                if document.index and number == 0:
                    yield stretch
                    continue
                if begun and len(closing):
                    yield closing
                yield np.concatenate([opening, stretch])
                begun, tokens = True, tokens + len(opening) + len(closing)
            counts.add(document, tokens, unknown=int(np.count_nonzero(ids == unknown)))
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


class _Counts:
    """Counts the documents, bytes and tokens of a split, part by part.

    gzip: whether to compress each document as `gzip -9` does, to measure its compressed size.
    cut: the numbers of the documents that were cut.
    """

    def __init__(self, gzip: bool):
        self._gzip = gzip
        self.documents = self.bytes = self.tokens = self.unknown = 0
        self.cut: set[int] = set()
        self._compressed = 0
        self._compressor: Any = None

    def add(self, part: DocumentPart, tokens: int, unknown: int) -> None:
        """Count a part of a document. tokens, unknown: its number of tokens and of unknown
        tokens."""
        content = part.text.encode()
        self.documents += part.index == 0
        if part.is_cut:
            self.cut.add(self.documents)
        self.bytes += len(content)
        self.tokens += tokens
        self.unknown += unknown
        if self._gzip:
            if part.index == 0:
                self._end_document()
                self._compressor = zlib.compressobj(9, wbits=31)  # 31: a gzip file
            self._compressed += len(self._compressor.compress(content))

    def of_split(self, targets: int) -> dict[str, Any]:
        """Return the counts of a `Split`. targets: the number of targets, which depends on packing.

        `gzip_bits_per_byte` is None without `gzip`, and with unknown tokens, because a model's bits
        per byte are then not comparable.
        """
        self._end_document()
        compared = self._gzip and self.bytes and not self.unknown
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "targets": targets,
            "tokens": targets,
            "unknown": self.unknown,
            "gzip_bits_per_byte": 8 * self._compressed / self.bytes if compared else None,
        }

    def _end_document(self) -> None:
        if self._compressor is not None:
            self._compressed += len(self._compressor.flush())
        self._compressor = None
