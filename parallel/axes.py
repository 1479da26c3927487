"""Maps logical axis names to mesh axes, by the one table `config.mesh.rules`.

Parameters carry a tuple of logical names (`("embed", "mlp")`), and the model's code constrains
activations by such names. Only this file knows what a name means on a mesh.
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
    """Return the mesh axes of an array of `shape` whose dimensions are called `axes`.

    A dimension that its mesh axes do not divide stays whole: a vocabulary of 67 cannot be split
    into four. Mesh axes of size 1 are left out.

    Raises ValueError for a name without a rule or a rank that differs, `configs.UsageError` for two
    dimensions on the same mesh axis.
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
    """Return `partition_spec` on `mesh`."""
    return NamedSharding(mesh, partition_spec(axes, shape, mesh=mesh, rules=rules))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding by which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def activation_placement(
    mesh: Mesh, rules: Rules
) -> Callable[[LogicalAxes, Sequence[int]], NamedSharding]:
    """Return the function that the model calls while a step is traced, for the sharding of an
    activation by its logical axes and shape."""
    return functools.partial(named_sharding, mesh=mesh, rules=rules)
