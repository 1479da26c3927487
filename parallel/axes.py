"""Maps logical axis names to mesh axes, by the table `config.mesh.rules`.

Each parameter has a tuple of logical names (`("embed", "mlp")`), one per dimension. The model also
uses logical names to constrain the sharding of its activations. Only this file translates a name to
mesh axes.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from configs.errors import UsageError

Rules = Mapping[str, Sequence[str]]
LogicalAxes = Sequence[str | None]


def partition_spec(
    axes: LogicalAxes, shape: Sequence[int], *, mesh: Mesh, rules: Rules
) -> PartitionSpec:
    """Return the PartitionSpec of an array of `shape` on `mesh`.

    `axes`: the logical name of each dimension, or None for a dimension that is not split. A
    dimension is also not split if its size is not divisible by the size of its mesh axes: a
    vocabulary of 67 cannot be split into four. Mesh axes of size 1 are left out.

    Raises ValueError if a name has no rule, or if `axes` and `shape` differ in length. Raises
    `configs.UsageError` if two dimensions have the same mesh axis.
    """
    if len(axes) != len(shape):
        raise ValueError(f"axes {tuple(axes)} name {len(axes)} dimensions of shape {tuple(shape)}")
    taken: dict[str, str] = {}
    parts: list[tuple[str, ...] | str | None] = []
    for name, size in zip(axes, shape, strict=True):
        if name is None:
            parts.append(None)
            continue
        if name not in rules:
            raise ValueError(f"logical axis {name!r} has no rule; there are {sorted(rules)}")
        mesh_axes = tuple(axis for axis in rules[name] if mesh.shape[axis] > 1)
        if not mesh_axes or size % math.prod(mesh.shape[axis] for axis in mesh_axes):
            parts.append(None)
            continue
        for axis in mesh_axes:
            if axis in taken:
                raise UsageError(
                    f"logical axes {taken[axis]!r} and {name!r} of one array both lie on the mesh "
                    f"axis {axis!r}: change mesh.rules.{taken[axis]} or mesh.rules.{name}"
                )
            taken[axis] = name
        parts.append(mesh_axes if len(mesh_axes) > 1 else mesh_axes[0])
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def named_sharding(
    axes: LogicalAxes, shape: Sequence[int], *, mesh: Mesh, rules: Rules
) -> NamedSharding:
    """Return the NamedSharding of an array on `mesh`. For the arguments, see `partition_spec`."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh=mesh, rules=rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def activation_placement(
    mesh: Mesh, rules: Rules
) -> Callable[[LogicalAxes, Sequence[int]], NamedSharding]:
    """Return a function that maps an activation's logical axes and shape to its sharding.

    The model calls the function while a step is traced.
    """
    return functools.partial(named_sharding, mesh=mesh, rules=rules)
