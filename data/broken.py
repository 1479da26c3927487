"""Counts examples that can't be decoded. They get weight 0; too many of them are an error."""

from dataclasses import dataclass, field

from configs.errors import UsageError

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

    def lines(self) -> list[str]:
        """Return warnings: a line for each of the first broken examples, then their number."""
        if not self.count:
            return []
        return [
            *self.messages,
            f"{self.count:,} of {self.total:,} {self.what} are broken, and count for nothing",
        ]
