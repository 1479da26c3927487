"""Averaged weights are used with batch statistics of their own, wherever they are used."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.selection import few_of
from tests.training import runs
from tests.training.test_initialize import SPEC, build, load, save
from training.arrays import restore_state
from training.ema_statistics import measure_ema
from training.initialize import open_pretrained, plan_warm_start
from training.manifest import read_manifest
from training.restore import restore_model

EMA = {"train__ema_decay": "0.9"}
STEPS = 12


@functools.cache
def trained(**fields: str):
    """A program, the state after some steps, and its batches."""
    program = runs.build(runs.load("digits_cnn", **EMA, **({"mesh__data": "1"} | fields)))
    batches = [*runs.batches(program.config, STEPS)]
    state = program.initialize()
    for batch in batches:
        state, _ = runs.step(program, state, batch)
    return program, jax.block_until_ready(state), batches


def expected(program, weights, batches):
    """From running statistics of zero a training forward leaves a tenth of the batch's own, by the
    momentum of the model; and of several batches each counts alike."""
    zeros = jax.tree.map(jnp.zeros_like, program.abstract_state.statistics)
    found = []
    for batch in batches:
        module = program.model_def.bind(weights, zeros)
        program.model_def.task.loss_sums(module, batch, dropout_key=jax.random.key(0))
        found.append(
            jax.tree.map(
                lambda x: np.float64(x) * 10, program.model_def.graph.statistics_of(module)
            )
        )
    return jax.tree.map(lambda *of: np.mean(of, axis=0), *found)


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.parametrize("mesh", [{}, {"mesh__data": "2", "mesh__fsdp": "4"}])
@pytest.mark.parametrize("parts", few_of(["1", "2"], "2"))
def test_the_average_has_the_statistics_of_its_own_activations_on_the_last_batches(mesh, parts):
    program, state, batches = trained(train__gradient_accumulation=parts, **mesh)
    measured = measure_ema(program, state, STEPS, batches.__getitem__)
    weights = jax.device_get(state.eval_params)
    own = expected(program, weights, batches[-8:])
    assert_close(measured.eval_statistics, own)
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), own, state.statistics)
    assert min(jax.tree.leaves(differences)) > 1e-3  # Those of the raw weights would not do.
    # A state like any other: the compiled step takes it.
    sharding = jax.tree.map(lambda leaf: leaf.sharding, measured)
    assert sharding == jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state)


def test_a_batch_that_is_not_finite_has_no_part_in_it():
    program, state, batches = trained()
    good = expected(program, jax.device_get(state.eval_params), batches[-8:-1])

    def spoiled(params, mean, count, placed, number):
        bad = params if number != STEPS - 1 else jax.tree.map(lambda x: x * np.nan, params)
        return program.mean_statistics(bad, mean, count, placed, number)

    one = dataclasses.replace(program, mean_statistics=spoiled)
    measured = measure_ema(one, state, STEPS, batches.__getitem__)
    assert_close(measured.eval_statistics, good)


def test_the_first_steps_have_fewer_batches_and_a_model_without_an_average_none():
    program, state, batches = trained()
    measured = measure_ema(program, state, 3, batches.__getitem__)
    own = expected(program, jax.device_get(state.eval_params), batches[:3])
    assert_close(measured.eval_statistics, own)
    plain = runs.build(runs.load("digits_cnn", mesh__data="1"))
    fresh = plain.initialize()
    assert measure_ema(plain, fresh, 3, pytest.fail) is fresh
    assert fresh.eval_statistics is fresh.statistics


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with two checkpoints: of step 1 as older versions left them, and of step 2."""
    program = build(runs.load("digits_cnn", **EMA, mesh__data="1"), SPEC)
    state = jax.device_get(program.initialize())
    raw, own = (jax.tree.map(lambda x, by=by: x + by, state.statistics) for by in (1, 2))
    state = state.replace(statistics=raw, ema_statistics=own)
    folder = tmp_path_factory.mktemp("run") / "run"
    states = {1: state.replace(ema_statistics=None), 2: state}
    save(folder, program, states, {1: 0.1, 2: 0.2})
    return folder, program, state


def restored(workdir, step: str, weights: str | None, warnings):
    folder, program, _ = workdir
    return restore_model(folder, program.config, step=step, weights=weights, mesh=program.mesh,
                         warn=warnings.append).statistics  # fmt: skip


def test_a_checkpoint_gives_each_weights_their_statistics(workdir):
    _, _, state = workdir
    warnings = []
    equal = functools.partial(jax.tree.map, np.testing.assert_array_equal)
    equal(restored(workdir, "2", None, warnings), state.ema_statistics)
    equal(restored(workdir, "2", "raw", warnings), state.statistics)
    equal(restored(workdir, "1", "raw", warnings), state.statistics)
    assert warnings == []
    equal(restored(workdir, "1", None, warnings), state.statistics)
    (warning,) = warnings
    assert "checkpoints/1 has no batch statistics of its averaged weights" in warning


def test_a_new_run_begins_with_those_of_the_average(workdir):
    folder, program, state = workdir
    for step, own in (("2", state.ema_statistics), ("1", state.statistics)):
        config = load(folder, train__initialize_step=step, **EMA)
        warnings = []
        pretrained = open_pretrained(folder, step, warnings.append)
        warm_start = plan_warm_start(pretrained, config, program)
        begun = program.initialize(*warm_start.load(program))
        jax.tree.map(np.testing.assert_array_equal, begun.statistics, own)
        jax.tree.map(np.testing.assert_array_equal, begun.ema_statistics, own)
        assert len(warnings) == (step == "1")


def test_an_older_checkpoint_goes_on(workdir):
    folder, program, state = workdir
    for step, own in ((1, state.statistics), (2, state.ema_statistics)):
        manifest = read_manifest(folder / "checkpoints" / str(step))
        found = restore_state(folder / "checkpoints", step, manifest, program.abstract_state)
        jax.tree.map(np.testing.assert_array_equal, found.replace(ema_statistics=None),
                     state.replace(ema_statistics=None))  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, found.ema_statistics, own)
        # Of its own, for a step gives away what it is given.
        pairs = zip(*map(jax.tree.leaves, (found.statistics, found.ema_statistics)), strict=True)
        assert all(one is not other for one, other in pairs)
        runs.step(program, found, next(runs.batches(program.config, 1)))
