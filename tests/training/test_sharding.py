"""One train step for every sharding: its losses are one device's."""

import functools

import jax
import numpy as np
import pytest

from configs.errors import UsageError
from tests.selection import few_of
from tests.training import runs

MESHES = {
    "data=8": {"mesh__data": "8"},
    "fsdp=8": {"mesh__data": "1", "mesh__fsdp": "8"},
    "tensor=4,data=2": {"mesh__data": "2", "mesh__tensor": "4"},
    "data=2,fsdp=2,tensor=2": {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"},
    "sequence=4,data=2": {"mesh__data": "2", "mesh__sequence": "4"},
}
SOME_RECIPES = ("python_stdlib", "digits_cnn")
SOME_MESHES = ("data=2,fsdp=2,tensor=2", "sequence=4,data=2")
"""Those that are tested here; tests/full tests the others."""

STEPS = 20


@functools.cache
def course(recipe: str, mesh: str) -> tuple[list[float], list[np.ndarray]]:
    """The losses of the steps, and the gradients of the first one (as Adam's first moments)."""
    settings = MESHES.get(mesh, {"mesh__data": "1"})
    program = runs.as_users_have_it(runs.build(runs.load(recipe, **settings)))
    state, losses, gradients = program.initialize(), [], []
    for batch in runs.batches(program.config, STEPS):
        state, metrics = runs.step(program, state, batch)
        losses.append(metrics["loss"])
        gradients = gradients or jax.device_get(jax.tree.leaves(state.optimizer))
    return losses, gradients


@pytest.mark.parametrize("mesh", SOME_MESHES)
@pytest.mark.parametrize("recipe", few_of(SOME_RECIPES, "digits_cnn"))
def test_gradients_and_losses_of_twenty_steps_on_a_mesh_equal_one_devices(recipe, mesh):
    check_twenty_steps(recipe, mesh)


def check_twenty_steps(recipe: str, mesh: str) -> None:
    """Gradients and losses of twenty steps on a mesh equal those of one device."""
    if mesh.startswith("sequence") and recipe in ("shakespeare_char_lstm", "digits_cnn"):
        with pytest.raises(UsageError, match=r"mesh\.sequence=4 .* only attention"):
            runs.load(recipe, **MESHES[mesh])
        return
    (alone, gradients), (together, others) = course(recipe, "one device"), course(recipe, mesh)
    for one, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(set(alone)) == STEPS


def test_fsdp_holds_no_second_full_copy_of_the_parameters():
    """With scanned layers: XLA's CPU backend gathers all layers of an unrolled model at once, and
    has no reduce-scatter for their gradients, which says nothing of an accelerator."""
    config = runs.load(
        "python_stdlib",
        mesh__data="1",
        mesh__fsdp="8",
        model__width="256",
        model__depth="8",
        model__scan_layers="true",
        data__sequence_length="8",
        data__global_batch_size="8",
    )
    program = runs.build(config)
    example = next(runs.batches(config, 1))
    batch = program.batch_shape(example, config.data.global_batch_size)
    memory = program.train_step.lower(program.abstract_state, batch).compile().memory_analysis()
    parameters = 4 * program.model_def.parameter_count
    # Parameters and two moments, an eighth of each on a device.
    assert memory.argument_size_in_bytes < 3 * parameters / 8 * 1.1
    assert memory.temp_size_in_bytes < parameters


def test_parameters_and_moments_are_born_in_their_shards():
    program = runs.build(runs.load("python_stdlib", mesh__data="1", mesh__fsdp="8"))
    state = program.initialize()
    up = state.params["backbone"]["layers"]["0"]["feed_forward"]["up"]["kernel"]
    assert up.addressable_shards[0].data.shape == (up.shape[0] // 8, up.shape[1])
    moments = [m for m in jax.tree.leaves(state.optimizer) if m.shape == up.shape]
    assert moments
    assert all(m.sharding == up.sharding for m in moments)


def test_a_fresh_state_is_the_same_on_every_mesh():
    alone = runs.build(runs.load("python_stdlib", mesh__data="1")).initialize()
    spread = runs.build(runs.load("python_stdlib", **MESHES["data=2,fsdp=2,tensor=2"])).initialize()
    jax.tree.map(np.testing.assert_array_equal, alone, spread)
