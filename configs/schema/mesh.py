"""The section `mesh`: the layout of the devices, and which dimensions it splits."""

from typing import Annotated, Any, Literal, Self, get_args

import pydantic
from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, Settings, field

Axis = Literal["data", "fsdp", "tensor", "sequence"]
AXES = get_args(Axis)
"""Axes of the mesh, in the order of its array of devices."""


def _not_zero(size: int) -> int:
    if size == 0:
        raise ValueError("zero devices")
    return size


def _no_axis_twice(axes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(axes)) < len(axes):
        raise ValueError("an axis twice")
    return axes


Size = Annotated[int, Interval(ge=-1, le=INTEGER_LIMIT), pydantic.AfterValidator(_not_zero)]
Axes = Annotated[tuple[Axis, ...], pydantic.AfterValidator(_no_axis_twice)]


def _size(default: int, meaning: str, *aliases: str) -> Any:
    return field(
        default,
        meaning,
        unit="devices",
        mutable_on_resume=True,
        aliases=aliases,
        accepts="an integer >= 1, or -1 for whatever devices are left",
    )


def _rule(default: tuple[str, ...], what: str) -> Any:
    return field(
        default,
        f"Mesh axes of {what}.",
        mutable_on_resume=True,
        accepts=f"any of {', '.join(AXES)}, each at most once, or ()",
    )


class Rules(Settings):
    """Maps the logical axes that models name to the axes of the mesh."""

    batch: Axes = _rule(("data", "fsdp"), "the examples of a batch")
    length: Axes = _rule(("sequence",), "positions in a sequence")
    width: Axes = _rule((), "the width of activations")
    embed: Axes = _rule(("fsdp",), "the width in weights")
    mlp: Axes = _rule(("tensor",), "the hidden size of the feed-forward part")
    heads: Axes = _rule(("tensor",), "heads of queries")
    kv_heads: Axes = _rule(("tensor",), "heads of keys and values")
    head_dim: Axes = _rule((), "the numbers of a head")
    vocabulary: Axes = _rule(("tensor",), "the vocabulary")
    recurrent: Axes = _rule(("tensor",), "units of a recurrence")
    channels_in: Axes = _rule(("fsdp",), "input channels of a convolution")
    channels_out: Axes = _rule(("tensor",), "output channels of a convolution")
    norm: Axes = _rule((), "gains of a norm")
    classes: Axes = _rule((), "classes")
    layers: Axes = _rule((), "scanned blocks")
    positions: Axes = _rule((), "learned positions")


class Mesh(Settings):
    """Sizes of the axes of the mesh. One of them may be -1: it takes the remaining devices."""

    data: Size = _size(-1, "Devices with different examples.", "data_parallel", "dp")
    fsdp: Size = _size(
        1,
        "Devices with different examples, each of which stores a part of every weight.",
        "fully_sharded",
    )
    tensor: Size = _size(
        1, "Devices that share the work of each layer.", "tensor_parallel", "tp", "model_parallel"
    )
    sequence: Size = _size(
        1,
        "Devices that share the positions of each sequence.",
        "sequence_parallel",
        "sp",
        "context_parallel",
    )
    rules: Rules = field(Rules(), "The axes of the mesh that split each dimension of an array.")

    def sizes(self) -> dict[str, int]:
        """Return the configured size of each axis, in the order of `AXES`."""
        return {axis: getattr(self, axis) for axis in AXES}

    @pydantic.model_validator(mode="after")
    def _check_remainder(self) -> Self:
        rest = [axis for axis, size in self.sizes().items() if size == -1]
        if len(rest) > 1:
            raise ValueError(
                f"{' and '.join(f'mesh.{axis}' for axis in rest)} are -1, but only one axis can "
                f"take the devices that are left: give the others a size"
            )
        return self
