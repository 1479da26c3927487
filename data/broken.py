"""Counts examples that can't be decoded, which get weight 0; too many are an error."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from configs.errors import UsageError
from data.dataset import Split

NAMED = 10


@dataclass
class Broken:
    """Counts the broken examples among `total`.

    what: what they are called in messages, such as pictures. allowed: the share that may be broken.
    messages: the names and reasons of the first ones.
    """

    what: str
    total: int
    allowed: float
    count: int = 0
    messages: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, what: str, splits: Iterable[Split], allowed: float, messages: list[str]) -> Self:
        """Count the broken examples of prepared splits. Raises UsageError if there are too many."""
        splits = list(splits)
        total = sum(split.examples + (split.left_out or 0) for split in splits)
        count = sum(split.broken or 0 for split in splits)
        broken = cls(what, total, allowed, count, messages)
        broken.check()
        return broken

    def add(self, name: str, reason: str) -> None:
        """Count a broken example. Raises UsageError if there are too many, once `NAMED` are
        listed."""
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
        """Raise UsageError if too many examples are broken, or all `examples` of a split."""
        self.check()
        for split, numbers in metadata.items():
            if numbers["broken"] == numbers["examples"]:
                raise UsageError(
                    f"all {numbers['examples']:,} {self.what} of {split} are broken: "
                    f"{'; '.join(self.messages)}"
                )

    def lines(self) -> list[str]:
        """Return warnings: the first broken examples by name, and how many there are."""
        if not self.count:
            return []
        return [
            *self.messages,
            f"{self.count:,} of {self.total:,} {self.what} are broken, and count for nothing",
        ]
