"""Finds wrong values that are finite: hardware that fails may compute or keep such values.

Two checks, both bit by bit:

- `recompute`: a step is computed twice, from the same inputs, by the same program.
- `compare_replicas`: all copies of an array on different devices are compared. They were computed
  from the same numbers, and have to be equal.

Each device hashes what it holds, so that only hashes are exchanged and compared.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from parallel.axes import replicated
from parallel.distributed import any_process
from training.program import TrainProgram
from training.scalars import Scalars
from training.step import TrainState
from training.trees import flat

CORRUPTED = 76
"""Exit status of a run that found wrong values."""

_LEAST_SHARE = 0.5
"""Share of the parameters with copies from which on it is worth to compare them."""

_MOST_NAMES = 3
_WORD = np.uint32(0x9E3779B9)  # 2**32 / golden ratio, odd


class Corrupted(Exception):
    """Raised when wrong values were found in `step`; the message names arrays and devices."""

    def __init__(self, what: str, step: int):
        super().__init__(
            f"{what}. Step {step} is not saved. The same command goes on from the last checkpoint. "
            "A device that is named again is likely to be broken"
        )
        self.step = step


class CorruptionChecks:
    """The checks of a run that `train.recompute_every_steps` and
    `train.compare_replicas_every_steps` ask for. All processes call them at the same steps."""

    def __init__(self, program: TrainProgram):
        train, mesh = program.config.train, program.mesh
        self._recompute_every = train.recompute_every_steps
        self._compare_every = train.compare_replicas_every_steps
        self._compared_step = -1
        self._devices: list[jax.Device] = list(mesh.devices.flat)
        leaves = flat(program.abstract_state)
        self._shardings = {name: leaf.sharding for name, leaf in leaves.items()}
        self._params = [
            (leaf.size, _replicas(leaf.sharding).shape[1])
            for leaf in flat(program.abstract_state.params).values()
        ]
        self._hashes = _hash_on_each_device(program)

    def compares_little(self) -> str | None:
        """Return a message if replicas are to be compared, but few parameters have any."""
        if self._compare_every is None:
            return None
        copied = sum(size for size, copies in self._params if copies > 1)
        share = copied / sum(size for size, _ in self._params)
        if share >= _LEAST_SHARE:
            return None
        return (
            f"train.compare_replicas_every_steps finds little here: {100 * share:.0f} % of the "
            "parameters have copies on several devices of this mesh; train.recompute_every_steps "
            "needs none"
        )

    def recomputes(self, step: int) -> bool:
        """Say whether `step` is to be computed twice."""
        return self._recompute_every is not None and step % self._recompute_every == 0

    def compares(self, step: int) -> bool:
        """Say whether the replicas are to be compared after `step`."""
        return self._compare_every is not None and step % self._compare_every == 0

    def check_before_save(self, state: TrainState, step: int) -> None:
        """Compare the replicas of `state`, which is saved next, if that is asked for and not done
        yet. Raises `Corrupted`."""
        if self._compare_every is not None and self._compared_step != step:
            self.compare_replicas(state, step)

    def recompute(
        self,
        train_step: Callable[..., tuple[TrainState, Scalars]],
        state: TrainState,
        batch: Any,
        step: int,
    ) -> tuple[TrainState, Scalars]:
        """Compute a step twice, from a copy of the state on the host, and return the second result.

        This needs no more memory on the devices than a step. The host holds a copy of the shards of
        its devices, without replicas.

        Raises `Corrupted` if the two results differ in a bit.
        """
        restore = _copy_to_host(state)
        state, metrics = train_step(state, batch)
        hashes, numbers = np.asarray(self._hashes(state)), np.asarray(metrics.array)
        del state  # Before the copy takes its place.
        state, metrics = train_step(restore(), batch)
        differ = np.asarray(self._hashes(state)) != hashes
        other_metrics = np.asarray(metrics.array).tobytes() != numbers.tobytes()
        if not any_process(bool(differ.any()) or other_metrics):
            return state, metrics
        found = [
            f"{name} on {self._names(np.flatnonzero(column))}"
            if not column.all() or len(column) == 1
            else f"{name} on all devices"
            for name, column in zip(self._shardings, differ.T, strict=True)
            if column.any()
        ]
        raise Corrupted(
            f"step {step}, computed twice, had two results (train.recompute_every_steps): "
            f"{_some(found) or 'in its metrics'}",
            step,
        )

    def compare_replicas(self, state: TrainState, step: int) -> None:
        """Compare all copies of each array of the state after `step`. Raises `Corrupted` if two
        differ."""
        self._compared_step = step
        hashes, found = np.asarray(self._hashes(state)), []
        for (name, sharding), column in zip(self._shardings.items(), hashes.T, strict=True):
            replicas = _replicas(sharding)
            values = column[replicas]
            for number in np.flatnonzero((values != values[:, :1]).any(axis=1)):
                found.append(f"{name} {self._minority(replicas[number], values[number])}")
        if found:
            raise Corrupted(
                f"after step {step}, copies of the same values differ "
                f"(train.compare_replicas_every_steps): {_some(found)}",
                step,
            )

    def _minority(self, replicas: np.ndarray, values: np.ndarray) -> str:
        """Describe which of several devices hold other values than most of them do."""
        kinds, counts = np.unique(values, return_counts=True)
        most = counts.argmax()
        if 2 * counts[most] <= len(values):  # Nobody can say which ones are right.
            return f"between {self._names(replicas)}"
        others = replicas[values != kinds[most]]
        copies = f"its {counts[most]} other copies" if counts[most] > 1 else "its other copy"
        return f"on {self._names(others)}, unlike {copies}"

    def _names(self, places: np.ndarray) -> str:
        """Return the names of the devices at some places of the mesh."""
        devices = [self._devices[place] for place in places]
        names = [f"device {one.id} of process {one.process_index}" for one in devices]
        return _some(names, ", ")


def _replicas(sharding: NamedSharding) -> np.ndarray:
    """Return the places, in the mesh, of the devices that hold each shard of an array: int [shards,
    copies of each]."""
    mesh = sharding.mesh
    axes = mesh.axis_names
    split = [
        axis
        for part in sharding.spec
        if part is not None
        for axis in (part if isinstance(part, tuple) else (part,))
    ]
    places = np.arange(mesh.size).reshape(tuple(mesh.shape.values()))
    order = sorted(range(len(axes)), key=lambda number: axes[number] not in split)
    shards = math.prod(mesh.shape[axis] for axis in split)
    return places.transpose(order).reshape(shards, -1)


def _hash_on_each_device(program: TrainProgram) -> Callable[[TrainState], jax.Array]:
    """Return a jitted function that hashes what each device holds of each array of a state: uint32
    [devices, arrays], replicated.

    A difference in one value is always seen; one in several is overlooked with a probability of
    2**-32. Takes about as long as reading the state once.
    """
    mesh = program.mesh

    def hash_shards(*shards: jax.Array) -> jax.Array:
        return jnp.stack([_hash(shard) for shard in shards])[None]

    on_each_device = jax.shard_map(
        hash_shards,
        mesh=mesh,
        in_specs=tuple(leaf.sharding.spec for leaf in jax.tree.leaves(program.abstract_state)),
        out_specs=PartitionSpec(mesh.axis_names),
        check_vma=False,
    )

    def hashes(state: TrainState) -> jax.Array:
        return on_each_device(*jax.tree.leaves(state))

    return jax.jit(hashes, out_shardings=replicated(mesh))


def _hash(x: jax.Array) -> jax.Array:
    """Return the sum, modulo 2**32, of a bijection of each value with its place; uint32.

    The bijection is the finalizer of MurmurHash3 (Appleby 2011).
    """
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    words = lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for dimension in reversed(range(words.ndim)):
        steps = lax.broadcasted_iota(jnp.uint32, words.shape, dimension)
        place += steps * np.uint32(stride % 2**32)
        stride *= words.shape[dimension]
    h = words ^ (place * _WORD)
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)


def _copy_to_host(state: TrainState) -> Callable[[], TrainState]:
    """Copy what the devices of this process hold of `state`; return a function that puts it back,
    to be called once. Shards that several devices hold are copied once."""
    leaves, structure = jax.tree.flatten(state)
    copies = []
    for leaf in leaves:
        pieces: dict[str, np.ndarray] = {}
        for shard in leaf.addressable_shards:
            if str(shard.index) not in pieces:
                pieces[str(shard.index)] = np.array(shard.data)  # Not a view: it is donated.
        copies.append((leaf.shape, leaf.sharding, pieces))

    def restore() -> TrainState:
        arrays = []
        while copies:
            shape, sharding, pieces = copies.pop()
            places = sharding.addressable_devices_indices_map(shape)
            # A CPU device may take the array as it is, and the step then writes into it.
            shards = [
                jax.device_put(pieces[str(index)].copy(), device)
                for device, index in places.items()
            ]
            arrays.append(jax.make_array_from_single_device_arrays(shape, sharding, shards))
        return jax.tree.unflatten(structure, arrays[::-1])

    return restore


def _some(texts: Sequence[str], separator: str = "; ") -> str:
    """Join the first few texts, and count the others."""
    more = len(texts) - _MOST_NAMES
    return separator.join(texts[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
