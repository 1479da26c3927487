"""Makes class names from text labels, and warns about names that are easily confused."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from configs.errors import UsageError
from data.forms import nfc
from data.sources.values import listed_names

_WHOLE = re.compile(r"([+-]?[0-9]+)(\.0+)?")  # an integer, or one that a program wrote as 1.0
_NO_VALUES = ("nan", "NaN", "NAN", "NaT", "null", "NULL", "(null)", "None", "NA", "N/A", "n/a",
              "<NA>", "\\N", "#N/A", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!")  # fmt: skip
"""How programs write that there is no value."""
_FEWEST_CLASSES = 10  # fewer are never called many


@dataclass(frozen=True)
class Classes:
    """The classes of a data set: their names, the class of each label, and messages for the
    user."""

    names: tuple[str, ...]
    class_of: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def number_of(self) -> dict[str, int]:
        """The number of each label's class."""
        numbers = {name: number for number, name in enumerate(self.names)}
        return {label: numbers[name] for label, name in self.class_of.items()}


def assign_classes(
    labels: Mapping[str, Mapping[str, int]], *, thing: str, validation_is_cut: bool
) -> Classes:
    """Return the classes of text labels: the training labels in order (numerical if all are
    integers).

    The class of a label is the label in the Unicode form NFC. If all labels are integers, those
    written as 1.0 are in the class 1.

    labels: for each split, how often each label occurs.
    thing: the noun for an example in messages.
    validation_is_cut: whether validation was cut out of the training data; its labels then count as
        training labels.

    Raises UsageError if there is only one class, or if another split has a label that training does
    not have.
    """
    class_of = {label: nfc(label) for label in sorted(chain.from_iterable(labels.values()))}
    if all(map(_WHOLE.fullmatch, class_of.values())):
        class_of = {label: name.partition(".")[0] for label, name in class_of.items()}
    found = {split: {class_of[label] for label in of} for split, of in labels.items()}
    joined = [*_joined_labels(class_of)]
    known = found["train"] | (found["validation"] if validation_is_cut else set())
    for split, of in found.items():
        if more := sorted(of - known):
            raise UsageError(
                f"{split} has the label{'' if len(more) == 1 else 's'} {', '.join(more[:10])}, "
                f"which no training {thing} has"
            )
    if len(known) == 1:
        one = f"all training {thing}s have one label, {known.pop()}: there is no choice"
        raise UsageError("; ".join([one, *joined]))
    names = _ordered(known)
    count = sum(sum(of.values()) for of in labels.values())
    warnings = (
        *joined,
        *held_out_classes(names, found["train"], thing),
        *alike(names),
        *_many(names, count, f"{thing}s"),
    )
    return Classes(names, class_of, warnings)


def held_out_classes(names: Iterable[str], trained: Iterable[str], thing: str) -> Iterator[str]:
    """Yield a warning if there are classes of which all examples are held out.

    trained: the classes of training examples.
    thing: the noun for an example.
    """
    if lost := sorted({*names} - {*trained}):
        yield f"every {thing} labelled {listed_names(lost)} is held out: training sees none"


def alike(classes: Iterable[str]) -> Iterator[str]:
    """Yield warnings about class names that differ only in letter case or white space, that are
    equal as numbers, or that say that there is no label."""
    classes = [*classes]
    confused = _confused(classes, lambda name: "".join(name.casefold().split()))
    yield from _told("classes that differ in capitals or spaces alone are told apart", confused)
    confused = _confused(classes, _number)
    yield from _told("classes that are equal as numbers are told apart", confused)
    missing = [repr(name) for name in classes if name in (*_NO_VALUES, "none", "-")]
    yield from _told("classes that seem to be missing labels are learnt like others", missing)


def _many(classes: Sequence[str], examples: int, things: str) -> Iterator[str]:
    """Yield a warning if there are more classes than half of the examples. things: the noun for an
    example, in the plural."""
    if len(classes) > max(_FEWEST_CLASSES, examples / 2):
        yield (
            f"{len(classes):,} classes for {examples:,} {things}: is data.label_field the column "
            "of the label?"
        )


def is_no_value(text: str) -> bool:
    """Return whether a whole text is what programs write if there is no value, such as nan."""
    return text.strip() in _NO_VALUES


def no_values(found: Sequence[str], of_all: str) -> Iterator[str]:
    """Yield a warning if there are texts for which `is_no_value` is true.

    found: these texts.
    of_all: all texts, in words, such as "100 texts of train".
    """
    if found:
        yield f"{len(found):,} of {of_all} seem to be missing, such as {found[0]!r}, and are learnt"


def _joined_labels(class_of: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning if several labels are one class. class_of: the class of each label."""
    forms: dict[str, list[str]] = {}
    for label, name in class_of.items():
        forms.setdefault(name, []).append(label)
    several = [f"{name} ({', '.join(map(ascii, of))})" for name, of in forms.items() if of[1:]]
    yield from _told("labels that are written in several ways are one class", several)


def _ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return names in order: numerical if all are integers."""
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def _confused(classes: Iterable[str], key: Callable[[str], str]) -> list[str]:
    """Return the groups of classes that have the same key, in words."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(key(name), []).append(name)
    return [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]


def _number(name: str) -> str:
    """Return an integer without leading zeros, and any other name as it is."""
    whole = _WHOLE.fullmatch(name)
    return re.sub("^[+]?0*(?=[0-9])", "", whole[1]) if whole else name


def _told(what: str, cases: list[str]) -> Iterator[str]:
    if cases:
        more = f", and {len(cases) - 3} more such" if len(cases) > 3 else ""
        yield f"{what}: {', '.join(cases[:3])}{more}"
