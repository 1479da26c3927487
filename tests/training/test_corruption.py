"""Wrong values are found and named, whichever bits they differ in; right ones never are."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from parallel.feeding import put_batch
from tests.faults.wrong_values import flip
from tests.selection import few_of
from tests.training import runs
from training.corruption import Corrupted, CorruptionChecks, _hash
from training.program import check_repeatable
from training.trees import flat

MESHES = {
    "data=8": {"data": 8},
    "data=4, tensor=2": {"data": 4, "tensor": 2},
    "data=2, fsdp=2, tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp=8": {"data": 1, "fsdp": 8},
}

KERNEL = "params.embedding.tokens.embedding"


def program_on(mesh: str, recipe: str = "shakespeare_char", **more: str):
    axes = {f"mesh__{axis}": str(size) for axis, size in MESHES[mesh].items()}
    return runs.build(runs.load(recipe, **axes, **more))


def changed(state, name: str, device: int):
    """The state with wrong bits in what a device, by its place in the mesh, holds of a leaf."""
    leaves = flat(state)
    leaf = leaves[name]
    wanted = leaf.sharding.mesh.devices.flat[device]
    shards = [
        jax.device_put(flip(np.asarray(shard.data)), wanted)
        if shard.device == wanted
        else shard.data
        for shard in leaf.addressable_shards
    ]
    leaves[name] = jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, shards)
    return jax.tree.unflatten(jax.tree.structure(state), list(leaves.values()))


def steps_of(program, count: int):
    size = program.config.data.global_batch_size
    for rows in runs.batches(program.config, count):
        yield put_batch(rows, program.batch_sharding, size)


def copies_of(leaf, device) -> list[int]:
    """The numbers of the devices that hold what `device` holds of an array."""
    shards = leaf.addressable_shards
    (index,) = [shard.index for shard in shards if shard.device == device]
    return [shard.device.id for shard in shards if shard.index == index]


@pytest.mark.parametrize("mesh", few_of(MESHES, "data=4, tensor=2", "fsdp=8"))
def test_what_differs_on_one_device_is_named_with_it(mesh):
    program = program_on(mesh)
    checks, state = CorruptionChecks(program), runs.train(program, 2)
    checks.compare_replicas(state, 2)
    leaves = {name: leaf for name, leaf in flat(state).items() if leaf.dtype == jnp.float32}
    assert len(leaves) > 20
    found = set()
    for place, (name, leaf) in zip(itertools.cycle([5, 2, 7]), leaves.items(), strict=False):
        device, wrong = program.mesh.devices.flat[place], changed(state, name, place)
        copies = copies_of(leaf, device)
        found.add(len(copies))
        if len(copies) == 1:
            checks.compare_replicas(wrong, 3)  # There is nothing to compare it with.
            continue
        with pytest.raises(Corrupted) as raised:
            checks.compare_replicas(wrong, 3)
        named = f"{name} on device {device.id} of process 0, unlike its {len(copies) - 1} other"
        if len(copies) == 2:
            named = "{} between device {} of process 0, device {} of".format(name, *copies)
        assert named in str(raised.value) and "; " not in str(raised.value)
        assert raised.value.step == 3
    expected = {"data=8": {8}, "data=4, tensor=2": {4, 8}, "fsdp=8": {1}}
    assert found >= expected.get(mesh, {2})


def test_a_mesh_without_copies_is_told():
    checked = {"train__compare_replicas_every_steps": "10"}
    message = CorruptionChecks(program_on("fsdp=8", **checked)).compares_little()
    assert message is not None and re.search(r" \d % of the parameters have copies", message)
    assert CorruptionChecks(program_on("fsdp=8")).compares_little() is None
    assert CorruptionChecks(program_on("data=8", **checked)).compares_little() is None


@pytest.mark.parametrize("mesh", few_of(["one device", *MESHES], "data=2, fsdp=2, tensor=2"))
@pytest.mark.parametrize("recipe", few_of(["shakespeare_char", "digits_cnn"], "shakespeare_char"))
def test_a_step_that_is_recomputed_is_the_same_step(mesh, recipe):
    alone = {"mesh__data": "1"}
    program = (
        runs.build(runs.load(recipe, **alone)) if mesh == "one device" else program_on(mesh, recipe)
    )
    checks, state, plain = CorruptionChecks(program), program.initialize(), program.initialize()
    for step, batch in enumerate(steps_of(program, 3), 1):
        state, metrics = checks.recompute(program.train_step, state, batch, step)
        plain, expected = program.train_step(plain, batch)
        assert np.asarray(metrics.array).tobytes() == np.asarray(expected.array).tobytes()
    for name, leaf in flat(plain).items():
        found = flat(state)[name]
        assert found.sharding == leaf.sharding
        assert np.asarray(found).tobytes() == np.asarray(leaf).tobytes()


@pytest.mark.parametrize("which", [1, 2])
def test_a_step_with_another_result_the_second_time_is_named(which):
    program = program_on("data=2, fsdp=2, tensor=2")
    checks, calls = CorruptionChecks(program), []

    def train_step(state, batch):
        calls.append(batch)
        state, metrics = program.train_step(state, batch)
        return (changed(state, KERNEL, 6) if len(calls) == which else state), metrics

    (batch,) = steps_of(program, 1)
    device = program.mesh.devices.flat[6].id
    with pytest.raises(Corrupted, match=rf"step 4, computed twice, .*{KERNEL} on device {device} "):
        checks.recompute(train_step, program.initialize(), batch, 4)


def test_checks_come_at_their_steps_and_before_each_save():
    every = {"train__recompute_every_steps": "3", "train__compare_replicas_every_steps": "2"}
    program = program_on("data=8", **every)
    checks = CorruptionChecks(program)
    assert [step for step in range(1, 8) if checks.recomputes(step)] == [3, 6]
    assert [step for step in range(1, 8) if checks.compares(step)] == [2, 4, 6]
    state = program.initialize()
    checks.compare_replicas(state, 6)
    wrong = changed(state, KERNEL, 1)
    checks.check_before_save(wrong, 6)  # It was compared after the step.
    with pytest.raises(Corrupted):
        checks.check_before_save(wrong, 7)
    off = CorruptionChecks(program_on("data=8"))
    assert not any(off.recomputes(step) or off.compares(step) for step in range(1, 8))
    off.check_before_save(wrong, 7)


def test_checks_leave_the_compiled_step_as_it_was():
    every = {
        "train__recompute_every_steps": "3",
        "train__compare_replicas_every_steps": "2",
        "train__loss_spikes__skip_batches": "10",
        "train__deterministic": "true",
    }
    texts = []
    for fields in ({}, every):
        program = program_on("data=8", **fields)
        (rows,) = runs.batches(program.config, 1)
        batch = program.batch_shape(rows, program.config.data.global_batch_size)
        texts.append(program.train_step.lower(program.abstract_state, batch).as_text())
    assert texts[0] == texts[1] and len(texts[0]) > 10_000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "int8", "bool"])
def test_every_bit_and_every_place_counts(dtype):
    random = np.random.default_rng(0)
    values = jnp.asarray(random.normal(0, 3, (5, 3)), dtype)
    array = np.asarray(values)
    bits = 1 if dtype == "bool" else 8 * array.dtype.itemsize
    hashes = [int(_hash(values))]
    for place in range(array.size):
        for bit in range(bits):
            copy = array.copy()
            words = copy.reshape(-1).view(f"u{array.dtype.itemsize}")
            words[place] ^= 1 << bit
            hashes.append(int(_hash(jnp.asarray(copy))))
    assert len(set(hashes)) == 1 + array.size * bits
    if len({*array.ravel().tolist()}) > 2:
        assert int(_hash(values[::-1])) not in hashes
    assert int(_hash(jnp.zeros(()))) != int(_hash(-jnp.zeros(())))


def test_max_pooling_on_a_gpu_is_refused_where_steps_have_to_be_repeatable():
    large, small = (DataSpec(num_classes=10, image_shape=(side, side, 3)) for side in (224, 32))
    for name in ("deterministic", "recompute_every_steps", "compare_replicas_every_steps"):
        value = "true" if name == "deterministic" else "5"
        config = load_config(
            "configs/imagenet_resnet50.py",
            {f"train.{name}": value, "model.stem": "auto"},
            inputs=False,
        )
        with pytest.raises(UsageError, match=rf"train\.{name} can't be on GPUs with the max pool"):
            check_repeatable(config, large, "gpu")
        check_repeatable(config, large, "cpu")
        check_repeatable(config, small, "gpu")
    config = load_config("configs/imagenet_resnet50.py", inputs=False)
    check_repeatable(config, large, "gpu")
