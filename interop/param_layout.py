"""Finds the parameters of each layer in a model with unrolled or stacked (scanned) layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

STACKS = ("backbone.layers.", "encoder.layers.", "decoder.layers.")
"""Prefixes of the names of layer parameters, one for each stack of layers. The layer's index
follows or, if layers are scanned, the index of its letter in the pattern. The first dimension of a
scanned leaf is the period."""


@dataclass(frozen=True)
class ParamSlice:
    """A leaf of a parameter tree or, if `period` is not None, its slice for that period."""

    leaf: str
    period: int | None
    shape: tuple[int, ...]

    def view(self, arrays: Mapping[str, NDArray]) -> NDArray:
        """Return a view of this parameter in `arrays`, the leaves by dotted name."""
        array = arrays[self.leaf]
        return array if self.period is None else array[self.period]


def param_layout(leaves: Mapping[str, Any], *, scanned: bool) -> dict[str, ParamSlice]:
    """Return where each parameter is stored, by its name in the unrolled model.

    An example of such a name is "backbone.layers.3.mixer.query.kernel".

    `leaves`: the model's parameters by dotted name; only their `shape` is used.
    `scanned`: whether layers are stacked.
    """
    letters = {stack: layer_count(leaves, (stack,)) for stack in STACKS}
    layout = {}
    for name, leaf in leaves.items():
        stack = stack_of(name)
        if not scanned or stack is None:
            layout[name] = ParamSlice(name, None, tuple(leaf.shape))
            continue
        periods, *shape = leaf.shape
        letter, rest = name.removeprefix(stack).split(".", 1)
        for period in range(periods):
            layer = period * letters[stack] + int(letter)
            layout[f"{stack}{layer}.{rest}"] = ParamSlice(name, period, tuple(shape))
    return layout


def stack_of(name: str) -> str | None:
    """Return the stack in `STACKS` of a parameter; None if it is of no layer."""
    return next((stack for stack in STACKS if name.startswith(stack)), None)


def layer_count(names: Iterable[str], stacks: tuple[str, ...] = STACKS) -> int:
    """Return the number of layers in the deepest of `stacks`. names: those of a model's parameters.

    With scanned layers, this is the number of letters in the pattern.
    """
    return max(len({n.split(".")[2] for n in names if n.startswith(stack)}) for stack in stacks)
