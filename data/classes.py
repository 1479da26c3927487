"""Makes class names from text labels, and warns about names that are easily confused."""

from collections.abc import Iterable, Iterator, Mapping

from configs.errors import UsageError


def class_names(
    labels: Mapping[str, set[str]], *, things: str, validation_is_cut: bool
) -> tuple[str, ...]:
    """Return the class names: the training labels in order (numerical if all are integers).

    labels: the labels of each split.
    things: the noun for an example in errors, in the singular.
    validation_is_cut: whether validation was cut out of the training data; its labels then count as
        training labels.

    Raises UsageError if there is only one class, or if another split has a label that training does
    not have.
    """
    known = labels["train"] | (labels["validation"] if validation_is_cut else set())
    for split, found in labels.items():
        if more := sorted(found - known):
            raise UsageError(
                f"{split} has the label{'' if len(more) == 1 else 's'} {', '.join(more[:10])}, "
                f"which no training {things} has"
            )
    if len(known) == 1:
        raise UsageError(
            f"all training {things}s have one label, {known.pop()}: there is no choice"
        )
    try:
        return tuple(sorted(known, key=int))
    except ValueError:
        return tuple(sorted(known))


def alike(classes: Iterable[str]) -> Iterator[str]:
    """Yield a warning if some class names differ only in letter case or white space."""
    by_letters: dict[str, list[str]] = {}
    for name in classes:
        by_letters.setdefault("".join(name.casefold().split()), []).append(name)
    if pairs := [names for names in by_letters.values() if len(names) > 1]:
        listed = ", ".join(" and ".join(map(repr, names)) for names in pairs[:3])
        more = f", and {len(pairs) - 3} more such" if len(pairs) > 3 else ""
        yield f"classes that differ in capitals or spaces alone are told apart: {listed}{more}"
