"""Reads arrays that several hosts need as a whole: each host reads a part, and they exchange them.

Otherwise each of N hosts would read all bytes of such an array from the disk.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

LEAST_BYTES = 1 << 17
"""A smaller array is read by every host that needs it."""


def spread(wanted: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the abstract arrays with the shardings in which they are read, by name.

    An array is split over all devices of its mesh if more than one process needs the same part of
    it, and if a dimension can be split. It is the dimension that has the most chunks on the disk,
    as a chunk is read as a whole.

    wanted: the abstract arrays with the shardings that they are to have.
    folder: of the item of the step.
    """
    if jax.process_count() == 1:
        return dict(wanted)
    shared = {
        name: leaf
        for name, leaf in wanted.items()
        if leaf.size * leaf.dtype.itemsize >= LEAST_BYTES
        and isinstance(leaf.sharding, NamedSharding)
        and _is_shared(leaf.sharding, leaf.shape)
    }
    chunks = _chunk_shapes(folder) if shared else {}
    return dict(wanted) | {
        name: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=_split(leaf.sharding, leaf.shape, chunks[name])
        )
        for name, leaf in shared.items()
    }


def gather(array: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
    """Return an array that was read as `spread` says, in the sharding that it is to have; the given
    array is deleted if its sharding is another one."""
    if array.sharding == sharding:
        return array
    whole = jax.block_until_ready(_placing(sharding)(array))
    array.delete()
    return whole


@functools.cache
def _placing(sharding: jax.sharding.Sharding) -> Any:
    return jax.jit(lambda array: array, out_shardings=sharding)


@functools.cache
def _is_shared(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    """Return whether several processes hold the same part of an array."""
    holder: dict[Any, int] = {}
    parts: Mapping[Any, Any] = sharding.devices_indices_map(shape)
    for device, index in parts.items():
        part, process = tuple((one.start, one.stop) for one in index), device.process_index
        if holder.setdefault(part, process) != process:
            return True
    return False


def _split(sharding: NamedSharding, shape: Sequence[int], chunk: Sequence[int]) -> NamedSharding:
    """Return the sharding that splits one dimension over all devices; `sharding` if no dimension
    can be split that has several chunks."""
    mesh = sharding.mesh
    chunks = [
        -(-size // part) if size % mesh.size == 0 else 1
        for size, part in zip(shape, chunk, strict=True)
    ]
    most = max(chunks)
    if most == 1:
        return sharding
    before = chunks.index(most)
    return NamedSharding(mesh, PartitionSpec(*(None,) * before, mesh.axis_names))


def _chunk_shapes(folder: Path) -> dict[str, Sequence[int]]:
    """Return the shape of the stored chunks of each array of an item."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        arrays = checkpointer.metadata(folder).item_metadata.tree
    return {name: array.storage.chunk_shape for name, array in arrays.items()}
