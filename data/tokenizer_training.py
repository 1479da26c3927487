"""Makes the tokenizer of a data set: trained on its text, or loaded from a file."""

import hashlib
from array import array
from collections.abc import Callable, Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from configs.reading.inputs import tokenizer_file
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset
from data.order import permutation
from data.progress import Progress, delayed, track

TRAINING_BYTES = 2**26
"""Maximum size of the text that a tokenizer is trained on. If there is more text, random texts are
used, chosen with a fixed seed."""

_TRAINED = {
    "bpe": Tokenizer.train_bpe,
    "unigram": Tokenizer.train_unigram,
    "wordpiece": Tokenizer.train_wordpiece,
    "words": Tokenizer.train_words,
}
_PLACES = 2**16  # of the shuffled order that are computed at once

Texts = Callable[[], Iterator[str]]
"""Returns an iterator over the training texts, in order. It may be called several times."""


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


def make_tokenizer(settings: Any, texts: Texts, total: int, progress: Progress) -> Tokenizer:
    """Build, train or load a tokenizer. settings: `config.data.tokenizer`.

    texts: the training texts.
    total: their approximate number.

    Raises UsageError if the tokenizer's file can't be loaded.
    """
    match settings.kind:
        case "characters":
            return Tokenizer.characters(_tracked(texts, progress, "collecting characters", total))
        case "bytes":
            return Tokenizer.bytes()
        case kind if kind in _TRAINED:
            sample = _sample(texts, total, progress)
            counted = track(sample, progress, "counting words", len(sample), "pieces")
            return _TRAINED[kind](counted, settings.vocabulary_size)
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


def _sample(texts: Texts, total: int, progress: Progress) -> list[str]:
    """Return the texts in random order, up to `TRAINING_BYTES` in total.

    The texts are read once to learn their sizes, and again if they do not all fit.
    """
    sizes, read, kept = array("q"), 0, list[str]()
    for text in _tracked(texts, progress, "reading texts", total):
        sizes.append(len(text.encode()))
        read += sizes[-1]
        kept.append(text)
        if read > TRAINING_BYTES:
            kept.clear()
    chosen = _chosen(np.array(sizes, np.int64))
    if read > TRAINING_BYTES:
        is_chosen = np.zeros(len(sizes), bool)
        is_chosen[chosen] = True
        again = _tracked(texts, delayed(progress), "reading the chosen texts", total)
        kept = [*compress(again, is_chosen[: chosen.max(initial=-1) + 1].tobytes())]
        chosen = np.argsort(np.argsort(chosen))  # now the places in `kept`
    return [kept[number] for number in chosen.tolist()]


def _tracked(texts: Texts, progress: Progress, stage: str, total: int) -> Iterator[str]:
    """Yield the texts, and report progress. total: as in `make_tokenizer`."""
    return track(texts(), progress, stage, total, "pieces", is_estimate=True)


def _chosen(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of random texts, in the order in which they are used.

    sizes: the number of bytes of each text.
    """
    found, room = list[NDArray[np.int64]](), TRAINING_BYTES
    for start in range(0, len(sizes), _PLACES):
        places = np.arange(start, min(start + _PLACES, len(sizes)))
        numbers = permutation(places, size=len(sizes), seed=0, epoch=0)
        used = np.cumsum(sizes[numbers])
        fitting = int(np.searchsorted(used, room, side="right"))
        found.append(numbers[:fitting])
        if fitting < len(numbers):
            break
        room -= int(used[-1])
    return np.concatenate([np.empty(0, np.int64), *found])


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
