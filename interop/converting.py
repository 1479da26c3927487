"""Weights of a folder as parameters of ours, and back: both ways along the rows of one table."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from interop.families import describe, table_of
from interop.folder import Folder
from interop.places import Place, empty_like, flatten, layer_count, nested, places
from interop.tables import HEADS, LAYER, Row, Table

Tree = Any

FRESH = (*HEADS, "pool.")
"""How names of ours begin that may start anew where only the body of a model is taken."""

_SHOWN = 4


@dataclass(frozen=True)
class Weights:
    """What was read of a folder: nested dictionaries of NumPy arrays. notes: lines about what of
    it is not in them."""

    params: Tree
    notes: tuple[str, ...]


def read(
    folder: str | Path,
    shapes: Tree,
    *,
    scanned: bool,
    body_only: bool = False,
    tokens_like: Mapping[int, int] | None = None,
) -> Weights:
    """The weights of `folder` in the layout of `shapes`: the parameters of a model, each leaf with
    a shape and a dtype. `scanned`: its layers lie in stacks, as `model.scan_layers` has them.

    `body_only`: what a model is read out with is left aside, and leaves of ours that nothing fills
    are missing from the result. Ours may have fewer positions, and another number of tokens: token
    t is token `tokens_like[t]` of theirs, or t, or where there are no more their mean.

    Raises `configs.UsageError` for what `describe` does, and where a tensor is left over on either
    side or has another shape: it is named.
    """
    opened = Folder(folder)
    table = table_of(describe(opened).family)
    leaves = flatten(shapes)
    ours = places(leaves, scanned=scanned)
    matched, aside = _matched(opened, table, ours, body_only=body_only)
    arrays, filled = empty_like(leaves), set()
    notes = [f"left aside: {_listed(aside)}"] if aside else []
    for row, name in matched:
        there = [ours[one] for one in row.ours]
        theirs, note = _fitted(opened, row, name, there, tokens_like or {})
        notes += [note] if note and note not in notes else []
        parts = row.to_ours(theirs, [place.shape for place in there])
        for place, part in zip(there, parts, strict=True):
            place.of(arrays)[...] = part
            filled.add(place.path)
    params = nested({path: array for path, array in arrays.items() if path in filled})
    return Weights(params, tuple(notes))


def write(family: str, params: Tree, *, scanned: bool) -> dict[str, NDArray]:
    """Parameters of ours as the tensors of a folder, by their names there: what `read` makes the
    same parameters of.

    Raises `configs.UsageError` for a parameter that the family has nothing like: it is named.
    """
    table, leaves = table_of(family), flatten(params)
    ours = places(leaves, scanned=scanned)
    rows = _rows(table, ours)
    without = ours.keys() - {name for row in rows for name in row.ours}
    if without:
        raise UsageError(f"{family} has nothing like {_listed(without)} of this model")
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    return {
        table.long(row): row.to_theirs([ours[name].of(arrays) for name in row.ours]) for row in rows
    }


def _rows(table: Table, ours: Mapping[str, Place]) -> list[Row]:
    """The rows of the parameters that a model has, one for each layer."""
    layers = range(layer_count(ours))
    every = (row.at(n) for row in table.rows for n in (layers if LAYER in row.theirs else [0]))
    return [row for row in every if any(name in ours for name in row.ours)]


def _matched(
    folder: Folder, table: Table, ours: Mapping[str, Place], *, body_only: bool
) -> tuple[list[tuple[Row, str]], list[str]]:
    """Each row of a model, with the name of its tensor in the folder; and with `body_only` the
    names of what else is there. Raises for what is left over."""
    theirs = {table.short(name): name for name in folder.names}
    twice = [name for name in folder.names if theirs[table.short(name)] != name]
    prefixed = any(name.startswith(table.prefix) for name in folder.names)
    rows, free, aside = _rows(table, ours), (), []
    if body_only:
        every = theirs
        heads, free = {row.theirs for row in table.rows if row.of_head}, FRESH
        theirs = {
            short: name
            for short, name in theirs.items()
            if short not in heads and (name.startswith(table.prefix) or not prefixed)
        }
        rows = [row for row in rows if row.theirs in theirs or not row.ours[0].startswith(free)]
        aside = [name for short, name in every.items() if short not in theirs]
    named = {name for row in rows for name in row.ours}
    without = [name for name in ours if name not in named and not name.startswith(free)]
    lacking = [
        table.long(row) if prefixed else row.theirs for row in rows if row.theirs not in theirs
    ]
    left = [*twice, *_left_over(folder, table, theirs, {row.theirs for row in rows})]
    faults = [
        f"the folder lacks {_listed(lacking)}" if lacking else "",
        f"it has {_listed(left)}, for which this model has no place" if left else "",
        f"it has nothing for {_listed(without)} of this model" if without else "",
    ]
    if any(faults):
        raise UsageError(f"{folder.path} does not fit: {'; '.join(filter(None, faults))}")
    return [(row, theirs[row.theirs]) for row in rows], aside


def _left_over(
    folder: Folder, table: Table, theirs: Mapping[str, str], taken: Collection[str]
) -> Iterator[str]:
    """Names of tensors that no row takes, that are not ignored, and no copies of others."""
    for short, name in theirs.items():
        if short in taken or any(fnmatchcase(short, pattern) for pattern in table.ignored):
            continue
        of = theirs[table.copies[short]] if table.copies.get(short) in theirs else None
        if of is None:
            yield name
        elif not np.array_equal(folder.tensor(name), folder.tensor(of)):
            yield f"{name}, which is not the same as {of}"


def _fitted(
    folder: Folder,
    row: Row,
    name: str,
    ours: list[Place],
    tokens_like: Mapping[int, int],
) -> tuple[NDArray, str]:
    """The tensor of a row, with as many positions or tokens as ours; and a line about these."""
    found, needed = folder.shape(name), row.their_shape([place.shape for place in ours])
    fits = found == needed
    if row.counts is not None and found[1:] == needed[1:]:
        fits = row.counts == "vocabulary" or found[0] >= needed[0]
    if not fits:
        raise UsageError(
            f"{folder.path} does not fit: {name} is {list(found)}, but must be {list(needed)} for "
            f"{_listed(row.ours)} of this model"
        )
    theirs, note = folder.tensor(name), ""
    if found[0] > needed[0]:
        what = {"vocabulary": "tokens"}.get(row.counts, row.counts)
        note = f"of its {found[0]:,} {what} the first {needed[0]:,} are taken"
    if row.counts == "vocabulary" and (found[0] < needed[0] or tokens_like):
        theirs, note = _more_tokens(theirs, needed[0], tokens_like, note)
    return theirs[: needed[0]], note


def _more_tokens(
    theirs: NDArray, count: int, tokens_like: Mapping[int, int], note: str
) -> tuple[NDArray, str]:
    """The rows of `count` tokens, and the line about them."""
    rows = np.arange(count)
    rows[[*tokens_like]] = [*tokens_like.values()]
    new = rows >= len(theirs)
    grown = theirs[np.where(new, 0, rows)]
    if new.any():
        grown[new] = theirs.mean(axis=0, dtype=np.float32).astype(theirs.dtype)
    said = [f"token {token} begins as its token {like}" for token, like in tokens_like.items()]
    said += [f"{new.sum():,} more tokens begin as the mean of all"] if new.any() else []
    return grown, "; ".join(filter(None, [note, *said]))


def _listed(names: Collection[str]) -> str:
    """The first few names, and how many there are."""
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
