"""Weights of a folder as parameters of ours, and back: both ways along the rows of one table."""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import UsageError
from interop.families import describe, table_of
from interop.folder import Folder
from interop.places import Place, empty_like, flatten, layer_count, nested, places
from interop.tables import HEADS, LAYER, Row, Table

Tree = Any

FRESH = (*HEADS, "pool.")
"""How names of ours begin that may start anew where only the body of a model is taken."""

_SHOWN = 4


def read(
    folder: str | Path,
    shapes: Tree,
    *,
    scanned: bool,
    body_only: bool = False,
    tokens_like: Mapping[int, int] | None = None,
) -> Tree:
    """The weights of `folder` as nested dictionaries of NumPy arrays, in the layout of `shapes`:
    the parameters of a model, each leaf with a shape and a dtype. `scanned`: its layers lie in
    stacks, as `model.scan_layers` has them.

    `body_only`: what a model is read out with is left aside, and leaves of ours that nothing fills
    are missing from the result. Ours may have fewer positions, and more tokens: token t of those
    begins as token `tokens_like[t]` of theirs, or as the mean of all.

    Raises `configs.UsageError` for what `describe` does, and where a tensor is left over on either
    side or has another shape: it is named.
    """
    opened = Folder(folder)
    table = table_of(describe(opened).family)
    leaves = flatten(shapes)
    ours = places(leaves, scanned=scanned)
    arrays, filled = empty_like(leaves), set()
    for row, name in _matched(opened, table, ours, body_only=body_only):
        there = [ours[one] for one in row.ours]
        theirs = _fitted(opened, row, name, there, tokens_like or {})
        parts = row.to_ours(theirs, [place.shape for place in there])
        for place, part in zip(there, parts, strict=True):
            place.of(arrays)[...] = part
            filled.add(place.path)
    return nested({path: array for path, array in arrays.items() if path in filled})


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
) -> list[tuple[Row, str]]:
    """Each row of a model, with the name of its tensor in the folder; raises for what is left."""
    theirs = {table.short(name): name for name in folder.names}
    twice = [name for name in folder.names if theirs[table.short(name)] != name]
    prefixed = any(name.startswith(table.prefix) for name in folder.names)
    rows, free = _rows(table, ours), ()
    if body_only:
        heads, free = {row.theirs for row in table.rows if row.of_head}, FRESH
        theirs = {
            short: name
            for short, name in theirs.items()
            if short not in heads and (name.startswith(table.prefix) or not prefixed)
        }
        rows = [row for row in rows if row.theirs in theirs or not row.ours[0].startswith(free)]
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
    return [(row, theirs[row.theirs]) for row in rows]


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
) -> NDArray:
    """The tensor of a row, with as many positions or tokens as ours."""
    found, needed = folder.shape(name), row.their_shape([place.shape for place in ours])
    fits = found == needed
    if row.counts is not None and found[1:] == needed[1:]:
        fits = found[0] <= needed[0] if row.counts == "vocabulary" else found[0] >= needed[0]
    if not fits:
        raise UsageError(
            f"{folder.path} does not fit: {name} is {list(found)}, but must be {list(needed)} for "
            f"{_listed(row.ours)} of this model"
        )
    theirs = folder.tensor(name)
    if found == needed or row.counts == "positions":
        return theirs[: needed[0]]
    mean = theirs.mean(axis=0, dtype=np.float32).astype(theirs.dtype)
    new = range(found[0], needed[0])
    more = [theirs[tokens_like[token]] if token in tokens_like else mean for token in new]
    return np.concatenate([theirs, np.stack(more)])


def _listed(names: Collection[str]) -> str:
    """The first few names, and how many there are."""
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
