"""Classes for examples whose labels are texts."""

from collections.abc import Iterable, Iterator, Mapping

from configs.errors import UsageError


def class_names(
    labels: Mapping[str, set[str]], *, things: str, validation_is_cut: bool
) -> tuple[str, ...]:
    """Return the sorted labels of the training part, in numerical order if all are integers.

    labels: the labels of each split. things: what the examples are called in errors.
    validation_is_cut: whether validation was cut out of the training part; its labels then count as
    training labels. Raises UsageError if there is only one label, or if another split has more.
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
    """Yield a warning if the names of classes differ only in capitals and spaces."""
    by_letters: dict[str, list[str]] = {}
    for name in classes:
        by_letters.setdefault("".join(name.casefold().split()), []).append(name)
    if pairs := [names for names in by_letters.values() if len(names) > 1]:
        listed = ", ".join(" and ".join(map(repr, names)) for names in pairs[:3])
        more = f", and {len(pairs) - 3} more such" if len(pairs) > 3 else ""
        yield f"classes that differ in capitals or spaces alone are told apart: {listed}{more}"
