"""The configuration section `mesh`: the device mesh, and the sharding of arrays over it."""

from typing import Annotated, Any, Literal, get_args

import pydantic
from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, Settings, field

Axis = Literal["data", "fsdp", "tensor", "sequence"]
AXES = get_args(Axis)
"""Names of the mesh axes, in the order of the dimensions of the device array."""


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
        f"Mesh axes that shard {what}.",
        mutable_on_resume=True,
        accepts=f"any of {', '.join(AXES)}, each at most once, or ()",
    )


class Rules(Settings):
    """Maps each logical axis of the models' arrays to the mesh axes that shard it."""

    batch: Axes = _rule(("data", "fsdp"), "the examples of a batch")
    length: Axes = _rule(("sequence",), "positions in a sequence")
    width: Axes = _rule((), "the width of activations")
    embed: Axes = _rule(("fsdp",), "the width of weights")
    mlp: Axes = _rule(("tensor",), "the hidden size of feed-forward layers")
    heads: Axes = _rule(("tensor",), "query heads")
    kv_heads: Axes = _rule(("tensor",), "key/value heads")
    head_dim: Axes = _rule((), "the dimension of each head")
    vocabulary: Axes = _rule(("tensor",), "the vocabulary")
    recurrent: Axes = _rule(("tensor",), "the units of recurrent layers")
    channels_in: Axes = _rule(("fsdp",), "input channels of convolutions")
    channels_out: Axes = _rule(("tensor",), "output channels of convolutions")
    norm: Axes = _rule((), "the parameters of norms")
    classes: Axes = _rule((), "the classes of a classifier")
    layers: Axes = _rule((), "the stacked blocks of model.scan_layers")
    positions: Axes = _rule((), "learned position embeddings")


class Mesh(Settings):
    """Sizes of the mesh axes. One size may be -1: that axis takes all remaining devices."""

    data: Size = _size(
        -1, "Data parallelism: devices that process different examples.", "data_parallel", "dp"
    )
    fsdp: Size = _size(
        1,
        "Fully sharded data parallelism: devices that process different examples, and each store "
        "a part of every weight.",
        "fully_sharded",
    )
    tensor: Size = _size(
        1,
        "Tensor parallelism: devices that share the work of each layer.",
        "tensor_parallel",
        "tp",
        "model_parallel",
    )
    sequence: Size = _size(
        1,
        "Sequence parallelism: devices that share the positions of each sequence.",
        "sequence_parallel",
        "sp",
        "context_parallel",
    )
    rules: Rules = field(Rules(), "Mesh axes that shard each logical axis.")

    def sizes(self) -> dict[str, int]:
        """Return the configured size of each axis, in the order of `AXES`."""
        return {axis: getattr(self, axis) for axis in AXES}

    def check(self) -> None:
        rest = [axis for axis, size in self.sizes().items() if size == -1]
        if len(rest) > 1:
            raise ValueError(
                f"{' and '.join(f'mesh.{axis}' for axis in rest)} are -1, but only one axis can "
                f"take the devices that are left: give the others a size"
            )
