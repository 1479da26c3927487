"""Trees of parameters by the names of their leaves: parts of them, and patterns of names."""

import difflib
import fnmatch
from collections.abc import Container, Iterable, Mapping
from typing import Any

import jax

from configs.errors import UsageError

Tree = Any


class Axes(tuple):
    """A tuple of logical axis names that JAX's tree functions take for a leaf."""


def flat(tree: Tree) -> dict[str, Any]:
    """{dotted name: leaf}, in the order of the tree's leaves; of None nothing."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def nested(leaves: Mapping[str, Any]) -> Tree:
    """The nested dictionaries of which `flat` gives `leaves`."""
    tree: Tree = {}
    for name, leaf in leaves.items():
        *parents, last = name.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = leaf
    return tree


def select(tree: Tree, names: Container[str]) -> Tree:
    """The leaves of nested dictionaries that `names` has, and nothing else."""
    return nested({name: leaf for name, leaf in flat(tree).items() if name in names})


def overlay(tree: Tree, over: Tree) -> Tree:
    """Nested dictionaries with the leaves of `over`, a part of them or None, in their places."""
    return nested(flat(tree) | flat(over))


def matching(names: Iterable[str], pattern: str, field: str) -> set[str]:
    """Those of `names` that `pattern` matches, * for anything.

    Raises `configs.UsageError`, which tells the nearest names and the `field` that has the
    pattern, where there are none.
    """
    names = list(names)
    found = set(fnmatch.filter(names, pattern))
    if not found:
        near = difflib.get_close_matches(pattern.replace("*", ""), names, 2, cutoff=0.0)
        raise UsageError(
            f"{field}: {pattern!r} matches no parameter; the nearest are "
            f"{' and '.join(near)} (without it, --explain lists them all)"
        )
    return found
