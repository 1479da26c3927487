"""Counts examples that can't be decoded. They get weight 0; too many of them are an error."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from configs.errors import UsageError
from data.dataset import Split

NAMED = 10
"""The number of broken examples that messages name."""


@dataclass
class Broken:
    """Counts the broken examples of all splits of a data set.

    what: the plural noun for examples in messages, such as "pictures".
    total: the number of all examples.
    allowed: the share of all examples that may be broken, from 0 to 1.
    count: the number of broken examples.
    messages: a text with name and reason for each of the first `NAMED` broken examples.
    """

    what: str
    total: int
    allowed: float
    count: int = 0
    messages: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, what: str, splits: Iterable[Split], allowed: float, messages: list[str]) -> Self:
        """Return a counter with the broken examples of splits that are already prepared.

        what, allowed: as in the class.
        splits: the splits of the data set.
        messages: the messages stored at preparation.

        Raises UsageError if too many examples are broken.
        """
        splits = list(splits)
        total = sum(split.examples + (split.left_out or 0) for split in splits)
        count = sum(split.broken or 0 for split in splits)
        broken = cls(what, total, allowed, count, messages)
        broken.check()
        return broken

    def add(self, name: str, reason: str) -> None:
        """Count a broken example. After the first `NAMED`, raises UsageError if there are too many.

        name: the example's name or path.
        reason: why it can't be decoded.
        """
        self.count += 1
        if len(self.messages) < NAMED:
            self.messages.append(f"{name}: {reason}")
        else:
            self.check()

    def check(self) -> None:
        """Raise UsageError if there are too many broken examples."""
        if self.count > self.allowed * self.total:
            raise UsageError(
                f"{self.count} of {self.total} {self.what} are broken, more than "
                f"data.broken_fraction={self.allowed:g} allows: {'; '.join(self.messages)}. Mend "
                "or remove them, or raise it"
            )

    def check_splits(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise UsageError if too many examples are broken, or all examples of one split.

        metadata: for each split, its numbers of `examples` and of `broken` ones.
        """
        self.check()
        for split, numbers in metadata.items():
            if numbers["broken"] == numbers["examples"]:
                raise UsageError(
                    f"all {numbers['examples']:,} {self.what} of {split} are broken: "
                    f"{'; '.join(self.messages)}"
                )

    def lines(self) -> list[str]:
        """Return warnings: a line for each of the first broken examples, then their number."""
        if not self.count:
            return []
        return [
            *self.messages,
            f"{self.count:,} of {self.total:,} {self.what} are broken, and count for nothing",
        ]
