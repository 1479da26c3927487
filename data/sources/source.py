"""The interface of sources of raw examples, and functions that several sources share."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")


class RawExamples(Protocol):
    """The raw examples of a split, with random access; `__getitems__` reads several at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> dict[str, Any]: ...

    def __getitems__(self, numbers: Sequence[int], /) -> Sequence[dict[str, Any]]: ...


RawSplits = Mapping[str, RawExamples]
"""The raw examples of a source by split name."""


@dataclass(frozen=True)
class MadeExamples(RawExamples):
    """Raw examples computed lazily: reading number n calls `make(items[n])`, every time anew."""

    items: Sequence[Any] | NDArray[Any]
    make: Callable[[Any], dict[str, Any]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.make(self.items[number])

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [self[number] for number in numbers]


class _NamedSource(Protocol):
    """Raw examples.

    To open a source must be quick (it happens at every start), to read its examples need not be.
    One that cuts validation off its training part has `held_out`, the share that it cuts; one with
    warnings for the user has `warnings`.
    """

    @property
    def name(self) -> str:
        """The source's name in the configuration."""
        ...

    def source_key(self) -> Mapping[str, Any]:
        """Return everything that decides the examples, including hashes of files, as JSON
        values."""
        ...


class RandomAccessSource(_NamedSource, Protocol):
    """A source whose examples are at random access where they are."""

    def random_access(self) -> RawSplits:
        """Return the raw examples of each split."""
        ...


class SequentialSource(_NamedSource, Protocol):
    """A source whose examples `data.sources.builder` writes down as a TensorFlow dataset."""

    @property
    def splits(self) -> Mapping[str, int]:
        """Splits by name, each with the number of its examples or a little more."""
        ...

    def features(self) -> Mapping[str, Any]:
        """Return the features of an example in terms of TensorFlow Datasets."""
        ...

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Return the examples of `split` in order."""
        ...


Source = RandomAccessSource | SequentialSource


def hold_out(
    items: Sequence[Item], fraction: float, name: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """Split `items` into those to train on and those held out, by `held_out_mask` of their
    names."""
    mask = held_out_mask(map(name, items), fraction)
    return [*itertools.compress(items, ~mask)], [*itertools.compress(items, mask)]


def copies(files: Mapping[str, Sequence[Any]], things: str) -> Iterator[str]:
    """Yield a warning for each split that shares files with train.

    Files are compared by `sha256`, and reported by `name`. things: what the files are called.
    """
    learnt = {one.sha256 for one in files["train"]}
    for split, of in files.items():
        names = [one.name for one in of if one.sha256 in learnt and split != "train"]
        if names:
            yield copies_line(names, f"{len(of):,} {things} of {split}")


def copies_line(names: Sequence[str], of_all: str) -> str:
    """Return the warning that the examples `names`, part of the evaluated `of_all`, are also in
    train."""
    return (
        f"{len(names):,} of {of_all} are in train too, such as {names[0]}: what they measure was "
        "learnt by heart"
    )


def held_out_mask(names: Iterable[str], fraction: float) -> NDArray[np.bool_]:
    """Return a mask of the `names` to hold out, bool [names]: about `fraction` of them.

    A fixed hash of each name decides, so adding names does not move the existing ones. Of two or
    more names, at least one is held out and at least one is not; if `fraction` is 0, none is held
    out. Takes eight bytes of memory per name.
    """
    digests = (hashlib.sha256(name.encode()).digest() for name in names)
    hashes = np.fromiter((int.from_bytes(one[:8]) for one in digests), np.uint64)
    if not fraction or not hashes.size:
        return np.zeros(hashes.size, bool)
    below = int(np.sum(hashes < np.uint64(fraction * 2**64)))
    count = min(max(below, 1), hashes.size - 1)
    return hashes < np.sort(hashes)[count] if count else np.zeros(hashes.size, bool)
