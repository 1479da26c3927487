"""Cleans text: changes its characters, and drops documents by length or as duplicates.

Documents are read in two passes, in pieces, so that none is in memory as a whole. The first pass
decides which documents to keep. It stores a hash of each document, and a MinHash signature if near
duplicates are dropped too. The second pass, when text is tokenized, changes the characters.

Of duplicates, the first is kept. Test documents come first, then validation documents, so training
loses a document that is also held out, never the other way round. Within a split, documents are
compared in the order of the source.
"""

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.progress import Progress, track
from data.sources.source import Examples

VERSION = 1
"""Part of the cache key. Increment it when this file makes different examples."""

_ORDER = ("test", "validation", "train")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_WORD = re.compile(r"\w+")
_PERMUTATIONS = 128  # per signature: estimated similarities have an error of about 0.04

Change = Callable[[str], str]
Counts = dict[str, Any]


@dataclass(frozen=True)
class CleanText(Examples):
    """Those `examples` that `kept` marks, a byte for each, with the text changed by `change`."""

    examples: Examples
    change: Change
    kept: bytearray

    def __len__(self) -> int:
        return sum(self.kept)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for one in compress(self.examples, self.kept):
            yield one | {"text": self.change(one["text"])}


def is_on(settings: Any) -> bool:
    """Return whether `settings` (`config.data.cleaning`) turn any cleaning on."""
    return settings != type(settings)()


def clean(
    parts: Sequence[tuple[str, Examples]], settings: Any, progress: Progress
) -> tuple[list[Examples], dict[str, Counts]]:
    """Clean text. Return the examples of each part without those that are removed, and counts by
    split.

    parts: pairs of split name and raw examples; a mixture has several parts per split.
    settings: `config.data.cleaning`.

    If cleaning is off, all examples are kept and there are no counts.

    Counts of a split: `documents` and `characters`, each [before, after], and `steps`: for each
    step, the number of `documents` it changed or removed, and of `characters` it removed (negative
    if it added some). The characters of all steps add up to before minus after.
    """
    cleaned = [examples for _, examples in parts]
    if not is_on(settings):
        return cleaned, {}
    normalize, strip = normalizer(settings), _stripper(settings)
    survey = _Survey(settings, normalize, strip)
    for number in sorted(range(len(parts)), key=lambda one: _ORDER.index(parts[one][0])):
        split, examples = parts[number]
        kept = survey.take(split, examples, progress)
        cleaned[number] = CleanText(examples, lambda text: strip(normalize(text)), kept)
    return cleaned, survey.counts


@dataclass
class _Document:
    """Counts of the current document.

    raw, normal, clean: number of characters before any change, after Unicode normalization, and
        after control characters are removed too.
    changed: whether each of these two steps changed it.
    """

    raw: int = 0
    normal: int = 0
    clean: int = 0
    changed: tuple[bool, bool] = (False, False)
    hasher: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))


class _Survey:
    """The first pass, over all splits: decides which documents to keep, and counts changes."""

    def __init__(self, settings: Any, normalize: Change, strip: Change):
        self._settings = settings
        self._normalize, self._strip = normalize, strip
        self._seen: set[bytes] = set()
        self._near = _NearDuplicates(settings) if settings.duplicates == "near" else None
        self.counts: dict[str, Counts] = {}

    def take(self, split: str, examples: Examples, progress: Progress) -> bytearray:
        """Return a mask of the examples to keep, a byte for each."""
        counts = self.counts.setdefault(
            split,
            {
                "documents": [0, 0],
                "characters": [0, 0],
                "steps": {
                    step: {"documents": 0, "characters": 0} for step in _steps(self._settings)
                },
            },
        )
        kept, count, document = bytearray(), 0, _Document()
        stage, total = f"cleaning {split}", len(examples)
        for one in track(examples, progress, stage, total, "pieces", is_estimate=True):
            if one["piece"] == 0 and count:
                kept += count * bytes([self._stays(document, counts)])
                count, document = 0, _Document()
            self._add(document, one["text"])
            count += 1
        if count:
            kept += count * bytes([self._stays(document, counts)])
        return kept

    def _add(self, document: _Document, text: str) -> None:
        normal = self._normalize(text)
        clean = self._strip(normal)
        document.raw += len(text)
        document.normal += len(normal)
        document.clean += len(clean)
        document.changed = (
            document.changed[0] or normal != text,
            document.changed[1] or clean != normal,
        )
        if self._settings.duplicates != "keep":
            document.hasher.update(clean.encode())
        if self._near is not None:
            self._near.add(clean)

    def _stays(self, document: _Document, counts: Counts) -> bool:
        """Count a whole document, and return whether to keep it."""
        counts["documents"][0] += 1
        counts["characters"][0] += document.raw
        steps = counts["steps"]
        lengths = (document.raw, document.normal, document.clean)
        for which, step in enumerate(("unicode", "control_characters")):
            if document.changed[which]:
                steps[step]["documents"] += 1
                steps[step]["characters"] += lengths[which] - lengths[which + 1]
        removal = self._removed_by(document)
        if removal is not None:
            steps[removal]["documents"] += 1
            steps[removal]["characters"] += document.clean
            return False
        counts["documents"][1] += 1
        counts["characters"][1] += document.clean
        return True

    def _removed_by(self, document: _Document) -> str | None:
        """Return the name of the step that removes the document; None if it is kept."""
        settings, near = self._settings, None
        if self._near is not None:
            near = self._near.end_document()
        if document.clean < settings.minimum_characters:
            return "too_short"
        most = settings.maximum_characters
        if most is not None and document.clean > most:
            return "too_long"
        if settings.duplicates == "keep":
            return None
        digest = document.hasher.digest()
        if digest in self._seen:
            return "exact_duplicates"
        self._seen.add(digest)
        if self._near is None or near is None or not self._near.is_known(near):
            return None
        return "near_duplicates"


class _NearDuplicates:
    """Finds near duplicates: documents that have most of their shingles in common.

    Two documents are near duplicates if the Jaccard similarity of their shingle sets, estimated by
    MinHash (Broder, 1997), is at least `near_similarity`. A signature has 512 bytes; only documents
    that agree in a band of the signature are compared. The index is a plain dictionary and takes
    4 kB of memory per document; datasketch's own index takes more than twice as much.
    """

    _rest: Any  # a list of words, or a string of characters

    def __init__(self, settings: Any):
        from datasketch import MinHash, MinHashLSH

        self._similarity = settings.near_similarity
        self._by_words = settings.near_shingle == "words"
        self._joint = " " if self._by_words else ""
        self._length = settings.near_shingle_length
        self._empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32)
        # An unneeded comparison costs little; a missing one misses a duplicate.
        bands = MinHashLSH(self._similarity, num_perm=_PERMUTATIONS, weights=(0.1, 0.9))
        self._shape = bands.b, bands.r
        self._signatures: list[NDArray[np.uint32]] = []
        self._index: dict[int, tuple[int, ...]] = {}
        self._begin()

    def add(self, text: str) -> None:
        """Add the next piece of the current document."""
        text = text.casefold()
        items = _WORD.findall(text) if self._by_words else " ".join(text.split())
        self._rest = self._rest + items
        shingles = zip(*(self._rest[n:] for n in range(self._length)), strict=False)
        self._signature.update_batch(self._joint.join(one).encode() for one in shingles)
        self._rest = self._rest[max(0, len(self._rest) - self._length + 1) :]

    def end_document(self) -> NDArray[np.uint32] | None:
        """End the current document and return its signature; None if it has no shingles."""
        if self._signature.is_empty() and self._rest:  # the document is shorter than a shingle
            self._signature.update(self._joint.join(self._rest).encode())
        found = None if self._signature.is_empty() else self._signature.hashvalues
        self._begin()
        return found

    def is_known(self, signature: NDArray[np.uint32]) -> bool:
        """Return whether the index has a similar document. If it has none, add the document with
        this signature."""
        bands, rows = self._shape
        content = np.ascontiguousarray(signature[: bands * rows]).tobytes()
        size = len(content) // bands
        keys = [hash((n, content[n * size : (n + 1) * size])) for n in range(bands)]
        candidates = {one for key in keys for one in self._index.get(key, ())}
        for one in candidates:
            if np.mean(self._signatures[one] == signature) >= self._similarity:
                return True
        for key in keys:
            self._index[key] = (*self._index.get(key, ()), len(self._signatures))
        self._signatures.append(signature)
        return False

    def _begin(self) -> None:
        self._signature = self._empty.copy()
        self._rest = [] if self._by_words else ""


def _steps(settings: Any) -> Iterator[str]:
    """Yield the names of the steps that `settings` turn on, in order."""
    if settings.unicode != "none":
        yield "unicode"
    if settings.control_characters != "keep":
        yield "control_characters"
    if settings.minimum_characters:
        yield "too_short"
    if settings.maximum_characters is not None:
        yield "too_long"
    if settings.duplicates != "keep":
        yield "exact_duplicates"
    if settings.duplicates == "near":
        yield "near_duplicates"


def normalizer(settings: Any) -> Change:
    """Return a function that applies the Unicode normalization `settings.unicode` to a text.

    Pieces can be normalized separately: a later piece begins with white space, which never combines
    with the character before it.
    """
    if settings.unicode == "none":
        return str
    form = settings.unicode.upper()
    return lambda text: unicodedata.normalize(form, text)


def _stripper(settings: Any) -> Change:
    if settings.control_characters == "keep":
        return str
    return lambda text: _CONTROL.sub("", text)
