"""The update: exact under accumulation, unmoved by what is not finite, decayed where it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.selection import few_of
from tests.training import runs
from training.optimizers import parameter_groups
from training.schedules import build_schedule, warmup_steps


def assert_states_close(one, other):
    """To a thousandth of one update of Adam, whose size is the learning rate of 1e-3."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


def assert_gradients_close(one, other):
    """First moments after one step: the gradients themselves, before Adam blows up their noise."""
    for a, b in zip(jax.tree.leaves(one.optimizer), jax.tree.leaves(other.optimizer), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())


def accumulated(parts: str, **mesh: str):
    """The state after one step of a batch whose parts have unequal numbers of targets."""
    config = runs.load("shakespeare_char", train__gradient_accumulation=parts, **mesh)
    return runs.train(runs.build(config), 1)


def test_accumulated_micro_batches_of_unequal_targets_make_the_large_batchs_update():
    assert_gradients_close(accumulated("1", mesh__data="1"), accumulated("4", mesh__data="1"))


def test_one_batch_of_32_and_four_of_8_with_unequal_targets_make_equal_updates():
    """Plain gradient descent at a rate of 1: the update is the gradient, and nothing else."""
    updates = []
    for parts in ("1", "4"):
        config = runs.load(
            "shakespeare_char",
            data__global_batch_size="32",
            train__gradient_accumulation=parts,
            optimizer__name="sgd",
            optimizer__learning_rate="1",
            optimizer__momentum="0",
            mesh__data="1",
        )
        program = runs.build(config)
        batch = next(runs.batches(config, 1))
        # Micro-batch j is the rows j, j + 4, ...: from all targets down to a twentieth of them.
        share = np.array([1.0, 0.6, 0.3, 0.05])[np.arange(32) % 4, None]
        random = np.random.default_rng(0).random(batch["weights"].shape)
        batch["weights"] = (random < share).astype(np.float32)
        before = jax.device_get(program.initialize().params)
        state, _ = runs.step(program, program.initialize(), batch)
        updates.append(jax.tree.map(np.subtract, jax.device_get(state.params), before))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=0, atol=1e-6), *updates)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(updates[0])) > 1e-2


def test_accumulation_on_a_mesh_equals_one_device():
    assert_gradients_close(accumulated("2", mesh__data="1"), accumulated("2", mesh__data="8"))


@pytest.fixture(params=[True, False], ids=["as on CPUs", "as on accelerators"])
def branches(request, monkeypatch):
    """Whether a step branches around the optimizer, or chooses values."""
    monkeypatch.setattr("training.program._branches", lambda mesh: request.param)
    return request.param


@pytest.mark.usefixtures("branches")
def test_a_batch_that_is_not_finite_changes_nothing_but_the_count():
    program = runs.build(runs.load("digits_cnn", mesh__data="1", train__ema_decay="0.9"))
    good = next(runs.batches(program.config, 1))
    poisoned = good | {"weights": np.full_like(good["weights"], np.nan)}
    before = jax.device_get(program.initialize())
    state, metrics = runs.step(program, program.initialize(), poisoned)
    state, metrics = runs.step(program, state, poisoned)
    after = jax.device_get(state)
    assert int(metrics["skipped"]) == int(after.skipped) == 2
    assert int(after.step) == 2
    for field in ("params", "statistics", "optimizer", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, field), getattr(after, field))
    state, metrics = runs.step(program, state, good)
    assert int(metrics["skipped"]) == 0
    assert not np.array_equal(
        jax.tree.leaves(after.params)[0], jax.device_get(jax.tree.leaves(state.params)[0])
    )


def test_an_update_beyond_float32_leaves_the_parameters_and_counts_as_passed_over(branches):
    far = {"optimizer__learning_rate": "1e30", "optimizer__learning_rate_multipliers": "*=1e10"}
    program = runs.build(runs.load("digits_cnn", mesh__data="1", train__ema_decay="0.9", **far))
    before = jax.device_get(program.initialize())
    state, metrics = runs.step(program, program.initialize(), next(runs.batches(program.config, 1)))
    after = jax.device_get(state)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    assert int(metrics["skipped"]) == int(after.skipped) == 1
    stays = ["params", "statistics", "ema"] + ["optimizer"] * (not branches)
    for field in stays:
        jax.tree.map(np.testing.assert_array_equal, getattr(before, field), getattr(after, field))


@pytest.mark.full
def test_a_step_that_branches_equals_one_that_chooses(monkeypatch):
    states = []
    for branches in (True, False):
        monkeypatch.setattr("training.program._branches", lambda mesh, one=branches: one)
        program = runs.build(runs.load("digits_cnn", mesh__data="1", train__ema_decay="0.9"))
        states.append(jax.device_get(runs.train(runs.as_users_have_it(program), 2)))
    assert_states_close(*states)


def test_the_average_follows_the_parameters():
    program = runs.build(runs.load("digits_cnn", mesh__data="1", train__ema_decay="0.5"))
    start = jax.device_get(program.initialize())
    state = runs.train(program, 1)
    halfway = jax.tree.map(lambda a, b: (a + b) / 2, start.params, jax.device_get(state.params))
    assert_states_close(jax.device_get(state.ema), halfway)


@pytest.mark.parametrize(
    "optimizer",
    few_of(["adamw", "sgd", "lion", "adafactor", "muon", "schedule_free"], "adamw", "muon"),
)
@pytest.mark.parametrize("parts", few_of(["1", "2"], "2"))
def test_parameters_in_bfloat16_train_and_their_average_is_finer(optimizer, parts):
    fields = {"optimizer__name": optimizer, "optimizer__warmup_steps": "2", "mesh__data": "1"}
    fields |= {"precision__parameter_dtype": "bfloat16", "train__ema_decay": "0.999"}
    fields |= {"train__gradient_accumulation": parts}
    program = runs.build(runs.load("shakespeare_char", **fields))
    start, state = (jax.device_get(one) for one in (program.initialize(), runs.train(program, 2)))
    dtypes = [jax.tree.map(lambda leaf: leaf.dtype, one) for one in (program.abstract_state, state)]
    assert dtypes[0] == dtypes[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    trees = (start.ema, state.ema, start.params, state.params)
    moves = [
        (after - before, np.float32(end) - np.float32(begin))
        for before, after, begin, end in zip(*map(jax.tree.leaves, trees), strict=True)
    ]
    # Two steps of a thousandth each, of the way to parameters that may have come back since.
    assert all(np.abs(average).max() <= 2.1e-3 * np.abs(way).max() + 1e-5 for average, way in moves)
    assert max(np.abs(average).max() for average, _ in moves) > 1e-7


def test_batch_statistics_are_those_of_the_whole_batch_on_every_mesh():
    one = runs.train(runs.build(runs.load("digits_cnn", mesh__data="1")), 2)
    many = runs.train(runs.build(runs.load("digits_cnn", mesh__data="8")), 2)
    assert jax.tree.leaves(one.statistics)
    assert_states_close(one.statistics, many.statistics)


@pytest.mark.parametrize("recipe", runs.NARROW)
def test_weight_decay_pulls_on_matrices_and_kernels_alone(recipe):
    program = runs.build(runs.load(recipe, mesh__data="1"))
    param_groups = parameter_groups(program.config, program.model_def.graph.axes())
    decayed, others = set(), set()
    for path, param_group in jax.tree.leaves_with_path(param_groups):
        (decayed if param_group.decayed else others).add(path[-1].key)
    assert decayed <= {"kernel", "embedding", "input_kernel", "recurrent_kernel"}
    assert others <= {"bias", "scale"}


def rates_of(schedule: str, **settings: str) -> np.ndarray:
    """Learning rates of the steps 0 to 110 of a run of 110, ten of them warm-up."""
    config = runs.load(
        "shakespeare_char",
        optimizer__schedule=schedule,
        optimizer__warmup_steps="10",
        train__steps="110",
        **settings,
    )
    schedule = build_schedule(config)
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(111)))
    np.testing.assert_allclose(rates[:10], 1e-3 * np.arange(1, 11) / 10, rtol=1e-6)
    return rates


def test_linear_falls_in_a_line_and_wsd_only_at_the_end():
    ratio = {"optimizer__final_learning_rate_ratio": "0.1"}
    linear = rates_of("linear", **ratio)
    np.testing.assert_allclose(linear[10:], np.linspace(1e-3, 1e-4, 101), rtol=1e-5)
    wsd = rates_of("wsd", optimizer__decay_fraction="0.5", **ratio)
    np.testing.assert_allclose(wsd[10:56], 1e-3, rtol=1e-6)
    np.testing.assert_allclose(wsd[55:], np.linspace(1e-3, 1e-4, 56), rtol=1e-5)


def test_the_inverse_square_root_is_one_of_steps_and_constant_is_constant():
    rates = rates_of("inverse_square_root")
    np.testing.assert_allclose(rates[10:], 1e-3 * np.sqrt(10 / np.arange(10, 111)), rtol=1e-5)
    np.testing.assert_allclose(rates_of("constant")[10:], 1e-3, rtol=1e-6)


def test_the_schedule_warms_up_from_the_first_step_and_ends_at_its_final_ratio():
    rates = rates_of("cosine", optimizer__final_learning_rate_ratio="0.1")
    assert rates[10] == pytest.approx(1e-3)
    assert rates[110] == pytest.approx(1e-4)
    assert (np.diff(rates[10:]) < 0).all()


def test_a_warm_up_longer_than_the_run_is_cut_to_a_tenth_of_it():
    config = runs.load("shakespeare_char", optimizer__warmup_steps="500", train__steps="100")
    assert warmup_steps(config) == 10
