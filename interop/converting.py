"""Converts the weights in a folder to our parameters and back, with the family's table."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray

from configs.errors import UsageError
from interop.families import describe, table_of
from interop.folder import Folder
from interop.grey import in_grey, is_in_colour
from interop.param_layout import ParamSlice, param_layout
from interop.tables import HEADS, Row, Table

Tree = Any

FRESH = (*HEADS, "pool.")
"""Prefixes of parameters that need not be in the folder if only the body is read."""

_MAX_LISTED = 4


@dataclass(frozen=True)
class Weights:
    """Parameters and batch statistics read from a folder, as nested dictionaries of NumPy arrays,
    and messages for the user about parameters or tokens that were left out or added."""

    params: Tree
    statistics: Tree
    messages: tuple[str, ...]


def read_weights(
    folder: str | Path | Folder,
    shapes: Tree,
    statistics: Tree | None = None,
    *,
    scanned: bool,
    body_only: bool = False,
    tokens_like: Mapping[int, int] | None = None,
) -> Weights:
    """Read the weights in `folder` as parameters of our model.

    `shapes`, `statistics`: our trees of parameters and of batch statistics; each leaf has a shape
        and a dtype.
    `scanned`: whether our layers are stacked (`model.scan_layers`).
    `body_only`: do not read the folder's head; the result then lacks our parameters with the
        prefixes `FRESH` that the folder's body does not contain.

    Our model may have fewer positions than the folder's, and a different number of tokens. Our
    token t has the weights of the folder's token `tokens_like[t]`, or of token t if `tokens_like`
    lacks it. If the folder has no token t, they are the mean over all its tokens.

    Raises `configs.UsageError` as `describe` does. Also raises it for a tensor or parameter that
    has no counterpart or a different shape; the message names it.
    """
    opened = folder if isinstance(folder, Folder) else Folder(folder)
    table = table_of(describe(opened).family)
    of_params, of_statistics = (flatten_dict(tree, sep=".") for tree in (shapes, statistics or {}))
    leaves = of_params | of_statistics
    layout = param_layout(leaves, scanned=scanned)
    matches, skipped = _match_rows(opened, table, layout, body_only=body_only)
    arrays = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
    filled = set()
    messages = [f"left aside: {_listed(skipped)}"] if skipped else []
    for row, name in matches:
        slices = [layout[one] for one in row.ours]
        tensor, message = _read_resized(opened, row, name, slices, tokens_like or {})
        messages += [message] if message and message not in messages else []
        parts = row.to_ours(tensor, [one.shape for one in slices])
        for one, part in zip(slices, parts, strict=True):
            one.view(arrays)[...] = part
            filled.add(one.leaf)

    def tree(names: Iterable[str]) -> Tree:
        return unflatten_dict({one: arrays[one] for one in names if one in filled}, sep=".")

    return Weights(tree(of_params), tree(of_statistics), tuple(messages))


def to_tensors(
    family: str, params: Tree, statistics: Tree | None = None, *, scanned: bool
) -> dict[str, NDArray]:
    """Convert our parameters and batch statistics to the tensors of a `family`: the inverse of
    `read_weights`.

    Returns a dictionary from the tensors' names in a Hugging Face folder to the tensors.

    `scanned`: whether our layers are stacked.

    Raises `configs.UsageError` for a parameter that the family lacks; the message names it.
    """
    table = table_of(family)
    leaves = flatten_dict(params, sep=".") | flatten_dict(statistics or {}, sep=".")
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items()}
    layout = param_layout(arrays, scanned=scanned)
    rows = table.rows_of(layout)
    unmatched = layout.keys() - {name for row in rows for name in row.ours}
    if unmatched:
        raise UsageError(f"{family} has nothing like {_listed(unmatched)} of this model")
    return {
        table.tensor_name(row): row.to_theirs([layout[name].view(arrays) for name in row.ours])
        for row in rows
    }


def _match_rows(
    folder: Folder, table: Table, layout: Mapping[str, ParamSlice], *, body_only: bool
) -> tuple[list[tuple[Row, str]], list[str]]:
    """Pair each row for our model with the name of its tensor in the folder.

    Also return the names of the tensors that are skipped because of `body_only`. Raises
    `UsageError` for a tensor or parameter without a counterpart.
    """
    theirs = {table.row_name(name): name for name in folder.names}
    repeated = [name for name in folder.names if theirs[table.row_name(name)] != name]
    prefixed = any(name.startswith(table.prefix) for name in folder.names)
    rows, skipped = table.rows_of(layout), []
    optional: tuple[str, ...] = ()
    if body_only:
        everything = theirs
        heads, optional = {row.theirs for row in table.rows if row.is_head}, FRESH
        theirs = {
            short: name
            for short, name in theirs.items()
            if short not in heads and (name.startswith(table.prefix) or not prefixed)
        }
        rows = [row for row in rows if row.theirs in theirs or not row.ours[0].startswith(optional)]
        skipped = [name for short, name in everything.items() if short not in theirs]
    covered = {name for row in rows for name in row.ours}
    unfilled = [n for n in layout if n not in covered and not n.startswith(optional)]
    missing = [
        table.tensor_name(row) if prefixed else row.theirs
        for row in rows
        if row.theirs not in theirs
    ]
    unused = [*repeated, *_unused_tensors(folder, table, theirs, {row.theirs for row in rows})]
    faults = [
        f"the folder lacks {_listed(missing)}" if missing else "",
        f"it has {_listed(unused)}, for which this model has no place" if unused else "",
        f"it has nothing for {_listed(unfilled)} of this model" if unfilled else "",
    ]
    if any(faults):
        raise UsageError(f"{folder.path} does not fit: {'; '.join(filter(None, faults))}")
    return [(row, theirs[row.theirs]) for row in rows], skipped


def _unused_tensors(
    folder: Folder, table: Table, theirs: Mapping[str, str], used: Collection[str]
) -> Iterator[str]:
    """Yield the names of tensors that no row uses and that are neither ignored nor copies."""
    for short, name in theirs.items():
        if short in used or any(fnmatchcase(short, pattern) for pattern in table.ignored):
            continue
        original = theirs.get(table.copies[short]) if short in table.copies else None
        if original is None:
            yield name
        elif not np.array_equal(folder.tensor(name), folder.tensor(original)):
            yield f"{name}, which is not the same as {original}"


def _read_resized(
    folder: Folder,
    row: Row,
    name: str,
    slices: list[ParamSlice],
    tokens_like: Mapping[int, int],
) -> tuple[NDArray, str]:
    """Read the tensor of a row, and resize it to our number of positions, tokens or channels. Also
    return a message about this, which is empty if the size is the same."""
    found, needed = folder.shape(name), row.their_shape([one.shape for one in slices])
    if is_in_colour(row.ours[0], found, needed):
        return in_grey(folder.tensor(name)), "its three channels are added up for grey pictures"
    fits = found == needed
    if row.resizable is not None and found[1:] == needed[1:]:
        fits = row.resizable == "vocabulary" or found[0] >= needed[0]
    if not fits:
        raise UsageError(
            f"{folder.path} does not fit: {name} is {list(found)}, but must be {list(needed)} for "
            f"{_listed(row.ours)} of this model"
        )
    tensor, message = folder.tensor(name), ""
    if found[0] > needed[0]:
        unit = "tokens" if row.resizable == "vocabulary" else row.resizable
        message = f"of its {found[0]:,} {unit} the first {needed[0]:,} are taken"
    if row.resizable == "vocabulary" and (found[0] < needed[0] or tokens_like):
        tensor, message = _resize_vocabulary(tensor, needed[0], tokens_like, message)
    return tensor[: needed[0]], message


def _resize_vocabulary(
    tensor: NDArray, count: int, tokens_like: Mapping[int, int], message: str
) -> tuple[NDArray, str]:
    """Return `tensor` with `count` rows, one per token, and the extended `message`."""
    rows = np.arange(count)
    rows[[*tokens_like]] = [*tokens_like.values()]
    new = rows >= len(tensor)
    resized = tensor[np.where(new, 0, rows)]
    if new.any():
        resized[new] = tensor.mean(axis=0, dtype=np.float32).astype(tensor.dtype)
    messages = [f"token {token} begins as its token {like}" for token, like in tokens_like.items()]
    messages += [f"{new.sum():,} more tokens begin as the mean of all"] if new.any() else []
    return resized, "; ".join(filter(None, [message, *messages]))


def _listed(names: Collection[str]) -> str:
    """Return the first few names and the number of the rest, as text."""
    shown = ", ".join(list(names)[:_MAX_LISTED])
    return shown if len(names) <= _MAX_LISTED else f"{shown} and {len(names) - _MAX_LISTED} more"
