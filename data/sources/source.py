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
    """Raw examples that are computed when read: example n is `make(items[n])`, with no cache."""

    items: Sequence[Any] | NDArray[Any]
    make: Callable[[Any], dict[str, Any]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.make(self.items[number])

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [self[number] for number in numbers]


class _NamedSource(Protocol):
    """The common part of both interfaces of sources.

    Opening a source must be quick, because it happens at every start. Reading its examples may be
    slow. Optional attributes are `held_out`, the share of the training examples that the source
    holds out for validation, `warnings`, messages for the user, and `layout`, how the user's files
    were assigned to splits.
    """

    @property
    def name(self) -> str:
        """The source's name in the configuration."""
        ...

    def source_key(self) -> Mapping[str, Any]:
        """Return JSON values that change if the examples change, such as hashes of files. They are
        part of the cache key of the prepared data."""
        ...


class RandomAccessSource(_NamedSource, Protocol):
    """A source with random access to its examples. They are not copied to the cache."""

    def random_access(self) -> RawSplits:
        """Return the raw examples of each split."""
        ...


class SequentialSource(_NamedSource, Protocol):
    """A source that reads its examples in order. `sources.builder` copies them to the cache."""

    @property
    def splits(self) -> Mapping[str, int]:
        """The number of examples of each split, or a somewhat larger estimate."""
        ...

    def features(self) -> Mapping[str, Any]:
        """Return the TensorFlow Datasets features of an example."""
        ...

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Return an iterator over the examples of `split`, in order."""
        ...


Source = RandomAccessSource | SequentialSource


def hold_out(
    items: Sequence[Item], fraction: float, name: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """Split `items` into training and held-out items, by `held_out_mask` of their names."""
    mask = held_out_mask(map(name, items), fraction)
    return [*itertools.compress(items, ~mask)], [*itertools.compress(items, mask)]


def copies(files: Mapping[str, Sequence[Any]], things: str) -> Iterator[str]:
    """Yield a warning for each other split that shares files with train.

    files: the files of each split, by the split's name; each has attributes `sha256` and `name`.
    things: the plural noun for the files in the warning, such as "pictures".
    """
    learnt = {one.sha256 for one in files["train"]}
    for split, of in files.items():
        names = [one.name for one in of if one.sha256 in learnt and split != "train"]
        if names:
            yield copies_line(names, f"{len(of):,} {things} of {split}")


def copies_line(names: Sequence[str], of_all: str) -> str:
    """Return the warning that evaluated examples are also in train.

    names: the names of these examples.
    of_all: all evaluated examples, in words, such as "100 pairs of test".
    """
    return (
        f"{len(names):,} of {of_all} are in train too, such as {names[0]}: what they measure was "
        "learnt by heart"
    )


def held_out_mask(names: Iterable[str], fraction: float) -> NDArray[np.bool_]:
    """Return a mask of the `names` to hold out, bool [names]: about `fraction` of them.

    A fixed hash of each name decides, so that new names do not move the existing ones to another
    split. Of two or more names, at least one is held out and at least one is not. If `fraction` is
    0, none is held out. Needs eight bytes of memory per name.
    """
    digests = (hashlib.sha256(name.encode()).digest() for name in names)
    hashes = np.fromiter((int.from_bytes(one[:8]) for one in digests), np.uint64)
    if not fraction or not hashes.size:
        return np.zeros(hashes.size, bool)
    below = int(np.sum(hashes < np.uint64(fraction * 2**64)))
    count = min(max(below, 1), hashes.size - 1)
    return hashes < np.sort(hashes)[count] if count else np.zeros(hashes.size, bool)
