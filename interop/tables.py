"""Describes the weights of a family by a table of rows.

A row has the names of a parameter in our model ("ours") and of a tensor in a Hugging Face file
("theirs"), and converts one to the other. Names are dotted paths; `{layer}` and the like stand for
the numbers of each layer (`Table.numbers`). A parameter may also be a batch statistic.
"""

import math
import string
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from interop.param_layout import layer_count

Shape = tuple[int, ...]

Numbers = Mapping[str, int]
"""The numbers of one layer, by what stands for them in names: {"layer": 3} for `{layer}`."""

HEADS = ("classes.", "embedding.head.", "head_transform.")
"""Prefixes of our parameters that belong to a head."""


class Transformation(Protocol):
    """Converts a Hugging Face array (`theirs`) to our parameter (`ours`) and back, without a loss:
    it rearranges values, multiplies them by a power of two, or adds one."""

    def their_shape(self, shape: Shape) -> Shape:
        """Return the shape of the Hugging Face array, given the `shape` of our parameter."""

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        """Convert a Hugging Face array to our parameter, which has the shape `shape`."""

    def to_theirs(self, ours: NDArray) -> NDArray:
        """Convert our parameter to the Hugging Face array."""


@dataclass(frozen=True)
class Reshape:
    """Reshapes an array. The Hugging Face array has `leading_ones` additional dimensions of size 1
    in front or, with `flat`, only one dimension."""

    leading_ones: int = 0
    flat: bool = False

    def their_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),) if self.flat else (1,) * self.leading_ones + shape

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return theirs.reshape(shape)

    def to_theirs(self, ours: NDArray) -> NDArray:
        return ours.reshape(self.their_shape(ours.shape))


FLAT = Reshape(flat=True)
"""For biases: our parameter may have the shape [heads, head_dim], the Hugging Face array has one
dimension."""


@dataclass(frozen=True)
class Kernel:
    """Converts the kernel of a linear map.

    In our kernel, the first `inputs` dimensions are inputs and the rest are outputs. The Hugging
    Face kernel is a matrix: [outputs, inputs] as in `torch.nn.Linear` or, with `inputs_first`,
    [inputs, outputs].
    """

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
class Transpose:
    """Reorders dimensions: the Hugging Face array is our parameter transposed by `axes`."""

    axes: tuple[int, ...]

    def their_shape(self, shape: Shape) -> Shape:
        return tuple(shape[axis] for axis in self.axes)

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return theirs.transpose(np.argsort(self.axes))

    def to_theirs(self, ours: NDArray) -> NDArray:
        return ours.transpose(self.axes)


@dataclass(frozen=True)
class Scaled:
    """Multiplies by a power of two, which loses no digit.

    The Hugging Face array is what `of` makes of our parameter, times 2 ** `exponent`.
    """

    of: Transformation
    exponent: int

    def their_shape(self, shape: Shape) -> Shape:
        return self.of.their_shape(shape)

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return self.of.to_ours(theirs * theirs.dtype.type(2.0**-self.exponent), shape)

    def to_theirs(self, ours: NDArray) -> NDArray:
        return self.of.to_theirs(ours * ours.dtype.type(2.0**self.exponent))


@dataclass(frozen=True)
class OffsetFromOne:
    """For the scales of Gemma's norms: the Hugging Face array is our parameter minus one."""

    def their_shape(self, shape: Shape) -> Shape:
        return shape

    def to_ours(self, theirs: NDArray, shape: Shape) -> NDArray:
        return theirs + theirs.dtype.type(1)

    def to_theirs(self, ours: NDArray) -> NDArray:
        return ours - ours.dtype.type(1)


@dataclass(frozen=True)
class Row:
    """Converts one Hugging Face tensor to one or more parameters of our model, and back.

    `ours`: the names of the parameters. If there are several, the tensor is their concatenation
        along the last dimension.
    `theirs`: the name of the tensor.
    `resizable`: "vocabulary" or "positions" if the first dimension of the tensor has an entry per
        token or per position, else None. Our vocabulary may have a different size, and our model
        may have fewer positions.
    """

    ours: tuple[str, ...]
    theirs: str
    transformation: Transformation = Reshape()
    resizable: Literal["vocabulary", "positions"] | None = None

    @property
    def is_head(self) -> bool:
        """Whether the row belongs to a head. A run with a different task replaces the head."""
        return self.ours[0].startswith(HEADS)

    @property
    def placeholders(self) -> set[str]:
        """The placeholders in the names, such as "layer"."""
        parsed = (string.Formatter().parse(name) for name in (*self.ours, self.theirs))
        return {field for parts in parsed for _, field, _, _ in parts if field is not None}

    def for_layers(self, layers: Iterable[Numbers]) -> list["Row"]:
        """Return the row for each of the `layers` that has numbers for all of its placeholders."""
        placeholders = self.placeholders
        if not placeholders:
            return [self]
        rows = [self._with(numbers) for numbers in layers if placeholders <= numbers.keys()]
        return list(dict.fromkeys(rows))

    def _with(self, numbers: Numbers) -> "Row":
        ours = tuple(name.format(**numbers) for name in self.ours)
        return replace(self, ours=ours, theirs=self.theirs.format(**numbers))

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the Hugging Face tensor, given the `shapes` of our parameters."""
        parts = [self.transformation.their_shape(shape) for shape in shapes]
        return (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else parts[0]

    def to_ours(self, theirs: NDArray, shapes: Sequence[Shape]) -> list[NDArray]:
        """Convert a Hugging Face tensor to our parameters, which have these `shapes`."""
        parts = [theirs]
        if len(shapes) > 1:
            sizes = [self.transformation.their_shape(shape)[-1] for shape in shapes]
            parts = np.split(theirs, np.cumsum(sizes)[:-1], axis=-1)
        pairs = zip(parts, shapes, strict=True)
        return [self.transformation.to_ours(part, shape) for part, shape in pairs]

    def to_theirs(self, ours: Sequence[NDArray]) -> NDArray:
        """Convert our parameters to the Hugging Face tensor, contiguous in memory."""
        parts = [self.transformation.to_theirs(part) for part in ours]
        return np.ascontiguousarray(np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0])


def numbers_of_layers(names: Collection[str]) -> Sequence[Numbers]:
    """Return the `layer` of each layer of a backbone with the parameters `names`."""
    return [{"layer": number} for number in range(layer_count(names))]


@dataclass(frozen=True)
class Table:
    """The rows of a family, and other tensors that its files may contain.

    `prefix`: the start of the names of the body's tensors. Rows omit it, and so do files that
        contain only the body.
    `ignored`: name patterns of tensors that our models do not use.
    `copies`: the names of duplicate tensors, each with the name of its original.
    `renamed`: old endings of tensor names, each with the new ending.
    `numbers`: returns the numbers of each layer, given the names of all parameters of our model.
    """

    prefix: str
    rows: tuple[Row, ...]
    ignored: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    numbers: Callable[[Collection[str]], Sequence[Numbers]] = numbers_of_layers

    def rows_of(self, names: Collection[str]) -> list[Row]:
        """Return the rows for the parameters `names`, with the rows of every layer."""
        layers = self.numbers(names)
        rows = (one for row in self.rows for one in row.for_layers(layers))
        return [row for row in rows if any(name in names for name in row.ours)]

    def row_name(self, tensor: str) -> str:
        """Return the name that rows have for a tensor of a file."""
        for old, new in self.renamed.items():
            if tensor.endswith(old):
                tensor = tensor.removesuffix(old) + new
        return tensor.removeprefix(self.prefix)

    def tensor_name(self, row: Row) -> str:
        """Return the name of a row's tensor in a file of the whole model, with the prefix."""
        return row.theirs if row.is_head else self.prefix + row.theirs


def norm(ours: str, theirs: str) -> tuple[Row, Row]:
    """Return the rows of a norm: its scale and, if it has one, its bias.

    ours, theirs: the names of the norm in our model and in a Hugging Face file.
    """
    return (
        Row((f"{ours}.scale",), f"{theirs}.weight"),
        Row((f"{ours}.bias",), f"{theirs}.bias"),
    )


def batch_norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """Return the rows of a batch norm: its scale, its bias and its running statistics.

    ours, theirs: the names of the norm in our model and in a Hugging Face file.
    """
    return (
        *norm(ours, theirs),
        Row((f"{ours}.mean",), f"{theirs}.running_mean"),
        Row((f"{ours}.var",), f"{theirs}.running_var"),
    )


def convolution(ours: str, theirs: str) -> tuple[Row, Row]:
    """Return the rows of a convolution of images: its kernel and, if it has one, its bias.

    ours, theirs: the names of the convolution in our model and in a Hugging Face file.
    """
    return (
        Row((f"{ours}.kernel",), f"{theirs}.weight", IMAGE_KERNEL),
        Row((f"{ours}.bias",), f"{theirs}.bias"),
    )


def linear(ours: str, theirs: str, kernel: Kernel = Kernel()) -> tuple[Row, Row]:
    """Return the rows of a linear map: its kernel and, if it has one, its bias.

    ours, theirs: the names of the linear map in our model and in a Hugging Face file.
    """
    return (
        Row((f"{ours}.kernel",), f"{theirs}.weight", kernel),
        Row((f"{ours}.bias",), f"{theirs}.bias", FLAT),
    )


IMAGE_KERNEL = Transpose((3, 2, 0, 1))
"""For kernels of convolutions, from [height, width, inputs, outputs] to [outputs, inputs, height,
width]."""

OUT_OF_HEADS = Kernel(inputs=2)
"""For the output projection of attention, from [heads, head_dim] to the width."""
