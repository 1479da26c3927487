"""Makes the mesh of devices, with the axes `data`, `fsdp`, `tensor` and `sequence`."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from configs.schema.config import Config
from configs.schema.mesh import AXES
from configs.schema.rules import resolve_mesh


def make_mesh(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Build the mesh that `config.mesh` describes from `devices` (default: all devices).

    If the mesh needs fewer devices, it consists of the first ones. Its axes are of type Auto: the
    compiler propagates shardings between the constraints in the model's code.

    Raises `configs.UsageError` if the mesh needs more devices than are given.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = resolve_mesh(config, len(devices))
    return _mesh(tuple(sizes[axis] for axis in AXES), devices)


def flat_mesh(devices: Sequence[jax.Device]) -> Mesh:
    """Build a mesh with all `devices` on the axis `fsdp`, for evaluation and generation."""
    return _mesh((1, len(devices), 1, 1), devices)


def _mesh(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> Mesh:
    count = math.prod(shape)
    kinds = (AxisType.Auto,) * len(AXES)
    if count == len(devices):
        # Lets JAX lay the axes along the physical links of a TPU.
        return jax.make_mesh(shape, AXES, axis_types=kinds, devices=devices)
    return Mesh(np.asarray(devices[:count]).reshape(shape), AXES, axis_types=kinds)
