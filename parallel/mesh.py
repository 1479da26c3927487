"""The mesh of devices: `data`, `fsdp`, `tensor`, `sequence`."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from configs import Config, resolve_mesh

AXES = ("data", "fsdp", "tensor", "sequence")


def make_mesh(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `config.mesh` asks for, over `devices` (default: all there are).

    The axes are of type Auto: the compiler propagates shardings between the constraints that the
    model states. A mesh smaller than the devices takes the first ones.

    Raises `configs.UsageError` if the mesh needs more devices than there are.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = resolve_mesh(config, len(devices))
    shape = tuple(sizes[axis] for axis in AXES)
    count = int(np.prod(shape))
    kinds = (AxisType.Auto,) * len(AXES)
    if count == jax.device_count() == len(devices) and devices == jax.devices():
        # Lets JAX lay the axes along the physical links of a TPU.
        return jax.make_mesh(shape, AXES, axis_types=kinds)
    return Mesh(np.asarray(devices[:count]).reshape(shape), AXES, axis_types=kinds)
