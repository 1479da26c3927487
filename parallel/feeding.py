"""Builds global batches on the mesh from the rows of each process, and gathers them."""

import functools
import itertools
import math
import zlib
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

BACKGROUND_COPY_BYTES = 100 * 1024
"""Size in bytes from which XLA copies a host array in the background, on a CPU."""


def local_rows(sharding: NamedSharding, global_batch_size: int) -> slice:
    """Return the slice of each global batch's rows that this process's devices hold.

    sharding: the sharding of a batch.

    Raises ValueError if the rows are not contiguous. This happens if the mesh axes `data` and
    `fsdp` interleave the hosts.
    """
    indices = sharding.addressable_devices_indices_map((global_batch_size,)).values()
    spans = sorted({index[0].indices(global_batch_size)[:2] for index in indices if index})
    for (_, stop), (start, _) in itertools.pairwise(spans):
        if start > stop:
            raise ValueError(f"this process would hold the scattered rows {spans} of each batch")
    return slice(spans[0][0], spans[-1][1])


def put_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding, global_batch_size: int
) -> dict[str, jax.Array | np.ndarray]:
    """Build the global batch on the mesh from `batch`, the rows of this process.

    sharding: the sharding of the global batch, which has `global_batch_size` rows.

    On several devices, the copy is asynchronous. On one device, arrays stay on the host: a compiled
    step copies them in a tenth of the time of a separate copy. But if this device is a CPU, arrays
    of `BACKGROUND_COPY_BYTES` or more are copied here, and this function waits for the copy.
    Otherwise XLA would wait for it in another thread and run the step there, where a step does not
    reuse the memory of the step before (`parallel.environment`).
    """
    if sharding.mesh.size == 1:
        limit = _host_array_limit(sharding)
        large = {name: rows for name, rows in batch.items() if rows.nbytes >= limit}
        if not large:
            return dict(batch)
        return dict(batch) | jax.block_until_ready(jax.device_put(large, sharding))
    if jax.process_count() == 1:
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, rows, (global_batch_size, *rows.shape[1:])
        )
        for name, rows in batch.items()
    }


@functools.cache
def _host_array_limit(sharding: NamedSharding) -> float:
    """Return the size in bytes from which `put_batch` copies an array to the only device."""
    return BACKGROUND_COPY_BYTES if sharding.mesh.devices.flat[0].platform == "cpu" else math.inf


def gather_batch(batch: Mapping[str, jax.Array | np.ndarray]) -> dict[str, np.ndarray]:
    """Return a global batch as whole NumPy arrays, on every process."""
    if jax.process_count() == 1:
        return jax.device_get(dict(batch))
    first = next(iter(batch.values()))
    assert isinstance(first, jax.Array) and isinstance(first.sharding, NamedSharding)
    whole = NamedSharding(first.sharding.mesh, PartitionSpec())
    gather = jax.jit(lambda arrays: arrays, out_shardings=whole)
    return jax.device_get(gather(dict(batch)))


def batch_crc32(batch: Mapping[str, np.ndarray]) -> int:
    """Return a checksum of this process's rows of a batch, to compare the data of two runs."""
    checksum = 0
    for name in sorted(batch):
        checksum = zlib.crc32(np.ascontiguousarray(batch[name]).data, checksum)
    return checksum
