"""What a source is: the raw examples of each split, and what decides them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol


class Source(Protocol):
    """Raw examples, which `data.sources.builder` writes down as a TensorFlow dataset.

    To open a source must be quick (it happens at every start), to read its examples need not be.
    """

    name: str
    """As in the configuration."""

    splits: Mapping[str, int]
    """Splits by name, each with the number of its examples or a little more."""

    def contents(self) -> Mapping[str, Any]:
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
    by_hash = sorted((hashlib.sha256(name.encode()).digest(), name) for name in names)
    if not fraction or not by_hash:
        return frozenset()
    below = sum(int.from_bytes(key[:8]) < fraction * 2**64 for key, _ in by_hash)
    count = min(max(below, 1), len(by_hash) - 1)
    return frozenset(name for _, name in by_hash[:count])
