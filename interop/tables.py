"""How a family is written down: a row for each parameter, with our name, theirs, and what turns the
one into the other, both ways.

Names are paths, dotted: ours those of the module, theirs those of the file. In a row, `{layer}`
stands for the number of every layer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]

LAYER = "{layer}"

HEADS = ("classes.", "embedding.head.", "head_transform.")
"""How names of ours begin that belong to what a model is read out with."""


class Transformation(Protocol):
    """From an array of theirs to ours and back: it moves numbers, and changes none."""

    def their_shape(self, shape: Shape) -> Shape:
        """The shape of theirs whose ours has this one."""

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        """Ours, of this shape."""

    def to_theirs(self, ours: NDArray) -> NDArray:
        """Theirs."""


@dataclass(frozen=True)
class Same:
    """The same array, in theirs behind `ones` dimensions of size 1."""

    ones: int = 0

    def their_shape(self, shape: Shape) -> Shape:
        return (1,) * self.ones + shape

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return theirs.reshape(shape)

    def to_theirs(self, ours: NDArray) -> NDArray:
        return ours.reshape(self.their_shape(ours.shape))


@dataclass(frozen=True)
class Flat:
    """All dimensions of ours, which are heads and what is in them, are one of theirs."""

    def their_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return theirs.reshape(shape)

    def to_theirs(self, ours: NDArray) -> NDArray:
        return ours.reshape(-1)


@dataclass(frozen=True)
class Kernel:
    """A linear map, in ours from the first `inputs` dimensions to the others; theirs is a matrix
    [outputs, inputs] as in `nn.Linear`, or with `inputs_first` [inputs, outputs] as in GPT-2."""

    inputs: int = 1
    inputs_first: bool = False

    def their_shape(self, shape: Shape) -> Shape:
        sides = (math.prod(shape[: self.inputs]), math.prod(shape[self.inputs :]))
        return sides if self.inputs_first else sides[::-1]

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return (theirs if self.inputs_first else theirs.T).reshape(shape)

    def to_theirs(self, ours: NDArray) -> NDArray:
        matrix = ours.reshape(math.prod(ours.shape[: self.inputs]), -1)
        return matrix if self.inputs_first else matrix.T


@dataclass(frozen=True)
class Permuted:
    """The same array with its dimensions in another order: theirs is ours transposed by `axes`."""

    axes: tuple[int, ...]

    def their_shape(self, shape: Shape) -> Shape:
        return tuple(shape[axis] for axis in self.axes)

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return theirs.transpose(np.argsort(self.axes))

    def to_theirs(self, ours: NDArray) -> NDArray:
        return ours.transpose(self.axes)


@dataclass(frozen=True)
class Row:
    """One tensor of theirs, and what of ours is in it: several lie side by side along its last
    dimension.

    `counts`: what the first dimension of theirs counts, where the two sides may differ in it: of a
    vocabulary ours may have more, of positions fewer.
    """

    ours: tuple[str, ...]
    theirs: str
    transformation: Transformation = Same()
    counts: Literal["vocabulary", "positions"] | None = None

    @property
    def of_head(self) -> bool:
        """Whether a model is read out with it, which another task does otherwise."""
        return self.ours[0].startswith(HEADS)

    def at(self, layer: int) -> "Row":
        """The row of one layer."""
        ours = tuple(name.replace(LAYER, str(layer)) for name in self.ours)
        theirs = self.theirs.replace(LAYER, str(layer))
        return Row(ours, theirs, self.transformation, self.counts)

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of theirs whose ours have these ones."""
        parts = [self.transformation.their_shape(shape) for shape in shapes]
        return (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else parts[0]

    def to_ours(self, theirs: NDArray, shapes: Sequence[Shape]) -> list[NDArray]:
        """Ours, of these shapes."""
        parts = [theirs]
        if len(shapes) > 1:
            sizes = [self.transformation.their_shape(shape)[-1] for shape in shapes]
            parts = np.split(theirs, np.cumsum(sizes)[:-1], axis=-1)
        pairs = zip(parts, shapes, strict=True)
        return [self.transformation.to_ours(part, shape) for part, shape in pairs]

    def to_theirs(self, ours: Sequence[NDArray]) -> NDArray:
        """Theirs, in memory as its shape says."""
        parts = [self.transformation.to_theirs(part) for part in ours]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0])


@dataclass(frozen=True)
class Table:
    """The rows of a family, and what else its files may hold.

    Rows name the tensors of the body without `prefix`, which files of the body alone lack too.
    `ignored`: patterns of what our models have no use for; `copies`: tensors that may be there a
    second time under another name. `renamed`: ends of names in old files, and today's.
    """

    prefix: str
    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    def short(self, name: str) -> str:
        """The name of a tensor as rows write it."""
        for old, new in self.renamed.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name.removeprefix(self.prefix)

    def long(self, row: Row) -> str:
        """The name of a row's tensor in a file of the whole model."""
        return row.theirs if row.of_head else self.prefix + row.theirs


def same(ours: str, theirs: str, **about) -> Row:
    """A row of one parameter that is the same on both sides."""
    return Row((ours,), theirs, **about)


def norm(ours: str, theirs: str, **about) -> tuple[Row, ...]:
    """The rows of a norm: its scale, and its bias where it has one."""
    return (
        same(f"{ours}.scale", f"{theirs}.weight", **about),
        same(f"{ours}.bias", f"{theirs}.bias", **about),
    )


def linear(ours: str, theirs: str, kernel: Kernel = Kernel(), **about) -> tuple[Row, ...]:
    """The rows of a linear map: its kernel, and its bias where it has one."""
    return (
        Row((f"{ours}.kernel",), f"{theirs}.weight", kernel, **about),
        Row((f"{ours}.bias",), f"{theirs}.bias", Flat(), **about),
    )


OUT_OF_HEADS = Kernel(inputs=2)
"""From heads and what is in them to the width."""
