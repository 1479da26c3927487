"""Where each parameter of a model lies: by names with a number for every layer, whether layers are
unrolled or, scanned, in stacks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tree = Any
Path = tuple[str, ...]

LAYERS: Path = ("backbone", "layers")
"""Below this path comes the number of a layer, or of its letter in the pattern where layers are
scanned: then each leaf has a first dimension, the periods."""


@dataclass(frozen=True)
class Place:
    """A leaf of a tree of parameters, or with `period` that part of it."""

    path: Path
    period: int | None
    shape: tuple[int, ...]

    def of(self, arrays: Mapping[Path, NDArray]) -> NDArray:
        """What lies here: a view."""
        array = arrays[self.path]
        return array if self.period is None else array[self.period]


def places(leaves: Mapping[Path, Any], *, scanned: bool) -> dict[str, Place]:
    """The place of each parameter by its name, "backbone.layers.3.mixer.query.kernel", whether or
    not layers are `scanned`. Leaves have a `shape`."""
    found, letters = {}, len({path[2] for path in leaves if path[:2] == LAYERS})
    for path, leaf in leaves.items():
        if not scanned or path[:2] != LAYERS:
            found[".".join(path)] = Place(path, None, tuple(leaf.shape))
            continue
        periods, *shape = leaf.shape
        for period in range(periods):
            layer = str(period * letters + int(path[2]))
            found[".".join((*LAYERS, layer, *path[3:]))] = Place(path, period, tuple(shape))
    return found


def layer_count(names: Mapping[str, Place]) -> int:
    """The number of layers whose parameters have these names."""
    start = ".".join(LAYERS)
    return len({name.split(".")[len(LAYERS)] for name in names if name.startswith(f"{start}.")})


def flatten(tree: Tree) -> dict[Path, Any]:
    """The leaves of nested dictionaries by their paths."""

    def walk(node: Tree, path: Path) -> Iterator[tuple[Path, Any]]:
        if not isinstance(node, Mapping):
            yield path, node
            return
        for key, inner in node.items():
            yield from walk(inner, (*path, key))

    return dict(walk(tree, ()))


def nested(leaves: Mapping[Path, Any]) -> Tree:
    """Nested dictionaries of leaves by their paths."""
    tree: Tree = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def empty_like(leaves: Mapping[Path, Any]) -> dict[Path, NDArray]:
    """Arrays of the shapes and dtypes of leaves, to be filled."""
    return {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
