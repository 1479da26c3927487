"""What a source is: the raw examples of each split, and what decides them."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RawExamples = Sequence[dict[str, Any]]
"""The raw examples of a split, at random access; `__getitems__` reads several at once."""

RawSplits = Mapping[str, RawExamples]
"""The raw examples of each split of a source, by the split's name."""


class Source(Protocol):
    """Raw examples, which `data.sources.builder` writes down as a TensorFlow dataset.

    To open a source must be quick (it happens at every start), to read its examples need not be.
    One whose examples are at random access where they are gives them by `random_access()`, for each
    split a sequence: those are not written down. One that cuts validation off its training part
    says by `held_out` what share that is.
    """

    name: str
    """As in the configuration."""

    splits: Mapping[str, int]
    """Splits by name, each with the number of its examples or a little more."""

    def source_key(self) -> Mapping[str, Any]:
        """All that decides what the examples are, hashes of files among it, as JSON."""
        ...

    def features(self) -> Mapping[str, Any]:
        """The features of an example, as TensorFlow Datasets describes them."""
        ...

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """The examples of `split` in their order."""
        ...


def held_out(names: Iterable[str], fraction: float) -> frozenset[str]:
    """Of `names` about `fraction`, chosen by a fixed hash of each, so that others change nothing.

    But of two names or more at least one is held out and one is not, whatever the hashes; and
    none is where `fraction` is 0.
    """
    names = list(names)
    return frozenset(itertools.compress(names, held_out_mask(names, fraction)))


def copies(files: Mapping[str, Sequence[Any]], things: str) -> Iterator[str]:
    """For the user: of `files`, a `name` and a `sha256` each, by their split, those of train that
    are measured on. things: what they are."""
    learnt = {one.sha256 for one in files["train"]}
    for split, of in files.items():
        names = [one.name for one in of if one.sha256 in learnt and split != "train"]
        if names:
            yield copies_line(names, f"{len(of):,} {things} of {split}")


def copies_line(names: Sequence[str], of_all: str) -> str:
    """For the user: that these, `of_all` that are measured on, are in train too."""
    return (
        f"{len(names):,} of {of_all} are in train too, such as {names[0]}: what they measure was "
        "learnt by heart"
    )


def held_out_mask(names: Iterable[str], fraction: float) -> NDArray[np.bool_]:
    """Which of `names` are held out, bool [names]; eight bytes a name are in memory."""
    digests = (hashlib.sha256(name.encode()).digest() for name in names)
    hashes = np.fromiter((int.from_bytes(one[:8]) for one in digests), np.uint64)
    if not fraction or not hashes.size:
        return np.zeros(hashes.size, bool)
    below = int(np.sum(hashes < np.uint64(fraction * 2**64)))
    count = min(max(below, 1), hashes.size - 1)
    return hashes < np.sort(hashes)[count] if count else np.zeros(hashes.size, bool)
