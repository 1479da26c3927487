"""Trees of arrays, addressed by the dotted names of their leaves."""

import difflib
import fnmatch
from collections.abc import Container, Iterable, Mapping
from typing import Any

import jax
from flax.traverse_util import unflatten_dict

from configs.errors import UsageError

Tree = Any
LogicalAxes = tuple[str | None, ...]


class Axes(tuple):
    """A tuple of logical axis names that JAX's tree functions treat as a leaf."""


def flat(tree: Tree) -> dict[str, Any]:
    """Return {dotted name: leaf}, in the order of the tree's leaves; {} for None."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def nested(leaves: Mapping[str, Any]) -> Tree:
    """Build nested dictionaries from {dotted name: leaf}: the inverse of `flat`."""
    return unflatten_dict(dict(leaves), sep=".")


def select(tree: Tree, names: Container[str]) -> Tree:
    """Return nested dictionaries with only the leaves whose dotted names are in `names`."""
    return nested({name: leaf for name, leaf in flat(tree).items() if name in names})


def overlay(tree: Tree, over: Tree) -> Tree:
    """Return `tree` with some leaves replaced by those of `over` (part of the tree, or None)."""
    return nested(flat(tree) | flat(over))


def matching(names: Iterable[str], pattern: str, field: str) -> set[str]:
    """Return those `names` that match `pattern`, in which * matches any text.

    Raises `UsageError` if none matches. The message has the nearest names and `field`, the
    configuration field with the pattern.
    """
    names = list(names)
    matched = set(fnmatch.filter(names, pattern))
    if not matched:
        near = difflib.get_close_matches(pattern.replace("*", ""), names, 2, cutoff=0.0)
        raise UsageError(
            f"{field}: {pattern!r} matches no parameter; the nearest are "
            f"{' and '.join(near)} (without it, --explain lists them all)"
        )
    return matched
