"""Faults that change values: POINT=VALUES, such as `batch:5=nan` or `parameters:5=wrong`.

`nan` puts one NaN into an array; `wrong` changes some bits of some values, so that all of them stay
finite and plausible; `rare` makes the targets of a batch tokens that are rare in the text.
"""

import functools
from typing import Any

import numpy as np

KINDS = ("nan", "wrong", "rare")

DEVICE = 1
"""Place in the mesh of the device that holds or computes wrong values, of several ones."""

FEW = 3
"""Number of values that are wrong."""


MASK = np.uint32(0b10110 << 18)
"""Three of the highest bits of a float32's mantissa: a value stays in its power of two."""


def flip(array: np.ndarray) -> np.ndarray:
    array = np.array(array)
    words = array.reshape(-1).view(np.uint32)
    words[:FEW] ^= MASK
    assert np.isfinite(array).all()
    return array


def spoil(array: np.ndarray, kind: str) -> np.ndarray:
    if kind == "wrong":
        return flip(array)
    array = np.array(array)
    array.reshape(-1)[0] = np.nan
    return array


def spoil_on_one_device(leaf: Any, kind: str) -> Any:
    """Return the array with wrong values in what one device holds of it."""
    import jax

    place = min(DEVICE, leaf.sharding.mesh.size - 1)
    device = leaf.sharding.mesh.devices.flat[place]
    shards = [
        jax.device_put(spoil(shard.data, kind), device) if shard.device == device else shard.data
        for shard in leaf.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)


def spoil_largest(params: Any, kind: str, on_one_device: bool = True) -> Any:
    """Return the parameters with wrong values in the largest one."""
    import jax

    leaves, structure = jax.tree.flatten(params)
    largest = max(range(len(leaves)), key=lambda number: leaves[number].size)
    leaf = leaves[largest]
    if on_one_device:
        leaves[largest] = spoil_on_one_device(leaf, kind)
    else:
        leaves[largest] = jax.device_put(spoil(leaf, kind), leaf.sharding)
    return jax.tree.unflatten(structure, leaves)


def put(name: str, steps: range, kind: str) -> None:
    """Put wrong values at `name` in each of `steps`."""
    match name:
        case "batch":
            _in_batches(steps, kind)
        case "gradient":
            _in_gradient(steps, kind)
        case "parameters" | "result":
            _after_step(steps, kind, once=name == "result")
        case "stored":
            _in_checkpoint(steps, kind)
        case _:
            raise ValueError(f"there is no point {name}")


def _in_batches(steps: range, kind: str) -> None:
    """In the batches of the steps, as they are read."""
    from data.batches import Batches

    read = Batches.__getitem__

    def wrapped(self, number):
        rows = read(self, number)
        if number + 1 in steps:
            if kind == "rare":
                rows = rows | {"targets": np.zeros_like(rows["targets"])}
            else:
                rows = rows | {"weights": spoil(rows["weights"], kind)}
        return rows

    Batches.__getitem__ = wrapped


def _in_gradient(steps: range, kind: str) -> None:
    """In the gradient that one device has at the steps, once it is summed over all devices."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    import training.program
    import training.step

    accumulate, meshes = training.step._accumulate, []
    build = training.program.build_program

    def build_program(config, spec, mesh, **more):
        meshes.append(mesh)
        return build(config, spec, mesh, **more)

    def spoiled(gradient, step):
        axes = meshes[-1].axis_names
        place = jnp.int32(0)
        for axis in axes:
            place = place * meshes[-1].shape[axis] + jax.lax.axis_index(axis)
        is_here = (place == min(DEVICE, meshes[-1].size - 1)) & (step >= steps[0])
        is_here &= step <= steps[-1]
        if kind == "nan":
            wrong = gradient.at[(0,) * gradient.ndim].set(jnp.nan)
        else:
            words = jax.lax.bitcast_convert_type(gradient[..., 0], jnp.uint32) ^ MASK
            column = jax.lax.bitcast_convert_type(words, gradient.dtype)
            wrong = gradient.at[..., 0].set(jnp.where(gradient[..., 0] == 0, 0, column))
        return jnp.where(is_here, wrong, gradient)

    @functools.wraps(accumulate)
    def wrapped(point, state, *arguments):
        gradients, *others = accumulate(point, state, *arguments)
        leaves, structure = jax.tree.flatten(gradients)
        largest = max(range(len(leaves)), key=lambda number: leaves[number].size)
        everywhere = PartitionSpec()
        leaves[largest] = jax.shard_map(
            spoiled,
            mesh=meshes[-1],
            in_specs=(everywhere, everywhere),
            out_specs=everywhere,
            check_vma=False,
        )(leaves[largest], state.step + 1)
        return jax.tree.unflatten(structure, leaves), *others

    training.step._accumulate = wrapped
    training.program.build_program = build_program


def _after_step(steps: range, kind: str, *, once: bool) -> None:
    """In a parameter after the steps: on one device. once: only when the first of the steps is
    computed first, on all devices."""
    import train

    compile_step, done = train.Run.compile, []

    def wrapped(self, rows):
        step_before = compile_step(self, rows)

        def train_step(state, batch):
            step = int(state.step) + 1
            state, metrics = step_before(state, batch)
            if step in steps and not (once and done):
                done.append(step)
                params = spoil_largest(state.params, kind, on_one_device=not once)
                state = state.replace(params=params)
            return state, metrics

        (shapes,) = [one for one, known in self.steps.items() if known is step_before]
        self.steps[shapes] = train_step
        return train_step

    train.Run.compile = wrapped


def _in_checkpoint(steps: range, kind: str) -> None:
    """In a parameter that is saved, before its hash is taken."""
    from training.checkpoints import Checkpoints

    save = Checkpoints.save

    def wrapped(self, step, state, **more):
        if step in steps:
            state = state.replace(params=spoil_largest(state.params, kind, on_one_device=False))
        return save(self, step, state, **more)

    Checkpoints.save = wrapped
