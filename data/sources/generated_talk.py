"""Generates a small set of conversations for trying things out.

The user asks in several ways what comes before or after, what is larger or what is the opposite,
and sometimes asks a second question. Whole conversations are held out. The training conversations
contain the same questions in other words, and other questions in the same words.
"""

from collections.abc import Iterator

VERSION = 1
"""Part of the cache key. Increase it when this file generates different examples."""

Message = dict[str, str]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "high": "low", "open": "closed",
    "early": "late", "light": "dark", "old": "new", "full": "empty", "hard": "soft",
    "wet": "dry", "left": "right", "up": "down", "true": "false", "first": "last",
    "read": "write", "start": "stop", "push": "pull", "in": "out", "long": "short",
}  # fmt: skip
NUMBERS = range(1, 40)

NEIGHBOURS = {
    1: ("What comes after {}?", "Which one follows {}?", "Tell me what is next after {}."),
    -1: ("What comes before {}?", "Which one precedes {}?", "Tell me what is just before {}."),
}
CONTRASTS = (
    "What is the opposite of {}?",
    "Give me the opposite of {}.",
    "Which word means the contrary of {}?",
)
COMPARISONS = ("Which is larger, {} or {}?", "Is {} or {} the larger number?")


def conversations() -> list[list[Message]]:
    """Return all conversations, in an order that never changes."""
    return [
        [
            {"role": "user" if place % 2 == 0 else "assistant", "content": content}
            for place, content in enumerate(turns)
        ]
        for turns in (*_neighbours(), *_contrasts(), *_comparisons())
    ]


def _neighbours() -> Iterator[tuple[str, ...]]:
    for names in (DAYS, MONTHS, [str(number) for number in NUMBERS]):
        for step, questions in NEIGHBOURS.items():
            word = "after" if step == 1 else "before"
            for place, name in enumerate(names):
                next_one, over_next = (names[(place + n * step) % len(names)] for n in (1, 2))
                first = f"{next_one} comes {word} {name}."
                for question in questions:
                    asked = question.format(name)
                    yield asked, first
                    yield asked, first, "And then?", f"{over_next} comes {word} {next_one}."


def _contrasts() -> Iterator[tuple[str, ...]]:
    both_ways = OPPOSITES | {other: one for one, other in OPPOSITES.items()}
    for word, other in both_ways.items():
        for question in CONTRASTS:
            yield question.format(word), f"The opposite of {word} is {other}."


def _comparisons() -> Iterator[tuple[str, ...]]:
    for one in NUMBERS[::2]:
        for other in NUMBERS[1::3]:
            if one != other:
                for question in COMPARISONS:
                    yield question.format(one, other), f"{max(one, other)} is larger."
