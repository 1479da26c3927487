"""Opened sources of raw examples, and functions that several sources share."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.sources.splits import Layout

Item = TypeVar("Item", bound=Any)


class Examples(Protocol):
    """The raw examples of a split. They can be read any number of times, in the same order."""

    def __len__(self) -> int:
        """Return the number of examples; of text, this may be a somewhat larger estimate."""
        ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...


@dataclass(frozen=True)
class MadeExamples(Examples):
    """Raw examples that are computed when they are read: example n is `make(items[n])`."""

    items: Sequence[Any] | NDArray[Any]
    make: Callable[[Any], dict[str, Any]]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.make, self.items)


@dataclass(frozen=True)
class Source:
    """The raw examples that a configuration names, opened but not read.

    Opening must be quick, because it happens at every start. Reading examples may be slow.

    name: the source's name in the configuration.
    splits: the raw examples of each split, in the order of `splits.SPLITS`.
    key: JSON values that change if the examples change, such as hashes of files. They are part of
        the cache key of the prepared data.
    held_out: share of the training examples that is held out for validation; 0 for none.
    layout: how the user's files were assigned to splits; None if no files were given.
    warnings: messages for the user.
    classes: the names of the classes, if the source knows them.
    channels: number of channels of pictures.
    characters: the number of characters of each split, if whole documents were held out.
    """

    name: str
    splits: Mapping[str, Examples]
    key: Mapping[str, Any]
    held_out: float = 0.0
    layout: Layout[Any] | None = None
    warnings: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    channels: int = 3
    characters: Mapping[str, int] | None = None


def hold_out(
    items: Sequence[Item], fraction: float, name: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """Split `items` into training and held-out items, by `held_out_mask` of their names."""
    mask = held_out_mask(map(name, items), fraction)
    return [*itertools.compress(items, ~mask)], [*itertools.compress(items, mask)]


def hold_out_validation(
    items: Mapping[str, list[Item]], settings: Any
) -> tuple[dict[str, list[Item]], float]:
    """Return the items of each split, and the share that was held out for validation.

    items: the items of each split; each has a `name`. Without validation,
        `data.validation_fraction` of those of train is held out, by a hash of their names.

    Splits without items are left out.
    """
    splits, share = dict(items), 0.0
    if "validation" not in items and settings.validation_fraction:
        share = settings.validation_fraction
        train, validation = hold_out(items["train"], share, lambda one: one.name)
        splits |= {"train": train, "validation": validation}
    return {split: of for split, of in splits.items() if of}, share


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
