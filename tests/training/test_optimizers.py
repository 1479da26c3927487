"""Each optimizer: resumes exactly, is the same on every mesh, and does to each parameter what it
should."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.errors import UsageError
from reporting.explanation import explain_parameters
from tests.selection import few_of
from tests.training import runs
from training.arrays import restore_state
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints, find_good_step
from training.optimizers import build_optimizer, matrix_of, parameter_groups

RATES = {
    "adamw": "1e-3",
    "sgd": "0.1",
    "lion": "3e-4",
    "adafactor": "1e-3",
    "muon": "3e-3",
    "schedule_free": "3e-3",
}
MESHES = {
    "one device": {"mesh__data": "1"},
    "fsdp=8": {"mesh__data": "1", "mesh__fsdp": "8"},
    "data=2,fsdp=2,tensor=2": {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"},
}
STEPS = 6


def build(name: str, mesh: str = "one device", **more: str):
    fields = {"optimizer__name": name, "optimizer__learning_rate": RATES[name]}
    small = {"model__depth": "1", "data__sequence_length": "16"}
    return runs.build(runs.load("shakespeare_char", **small, **MESHES[mesh], **fields, **more))


def go_on(program, state, first: int, last: int):
    losses = []
    for batch in list(runs.batches(program.config, last))[first:]:
        state, metrics = runs.step(program, state, batch)
        losses.append(metrics["loss"])
    return state, losses


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(other))


@pytest.mark.parametrize("name", few_of(RATES, "adamw", "muon"))
def test_it_resumes_exactly_and_meshes_agree(name, tmp_path):
    courses = {}
    for mesh in ("one device", "fsdp=8"):
        program, folder = build(name, mesh), tmp_path / mesh
        state, losses = go_on(program, program.initialize(), 0, STEPS // 2)
        metric = BestMetric("loss", higher_is_better=False)
        checkpoints = Checkpoints(folder, keep_last=1, keep_best=0, metric=metric)
        checkpoints.save(3, state, axes=program.model_def.graph.axes(), contents={"metrics": {}})
        checkpoints.close()
        step, manifest = find_good_step(folder, pytest.fail)
        restored = restore_state(folder, step, manifest, program.abstract_state)
        equal(state, restored)
        state, more = go_on(program, state, STEPS // 2, STEPS)
        resumed, resumed_more = go_on(program, restored, STEPS // 2, STEPS)
        assert resumed_more == more
        equal(state, resumed)
        courses[mesh] = losses + more
    assert len(set(courses["one device"])) == STEPS
    np.testing.assert_allclose(courses["fsdp=8"], courses["one device"], rtol=1e-5)


@pytest.mark.parametrize("name", few_of(["muon", "adafactor"], "muon"))
def test_matrices_that_are_split_both_ways_give_the_losses_of_one_device(name):
    alone, together = (build(name, mesh) for mesh in ("one device", "data=2,fsdp=2,tensor=2"))
    _, one = go_on(alone, alone.initialize(), 0, STEPS)
    _, other = go_on(together, together.initialize(), 0, STEPS)
    np.testing.assert_allclose(other, one, rtol=1e-5)


@pytest.mark.parametrize("name", RATES)
def test_moments_lie_as_their_parameters(name):
    state = build(name, "fsdp=8").initialize()
    up = state.params["backbone"]["layers"]["0"]["feed_forward"]["up"]["kernel"]
    moments = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.optimizer)
        if "up" in jax.tree_util.keystr(path) and leaf.shape == up.shape
    ]
    assert moments
    assert all(leaf.sharding == up.sharding for leaf in moments)
    assert up.addressable_shards[0].data.size == up.size // 8


def test_muon_takes_hidden_matrices_by_their_axes():
    def sides(*axes):
        matrix = matrix_of(axes)
        return matrix and (matrix.reduction_axis, matrix.output_axis)

    assert sides("embed", "mlp") == ((0,), (1,))
    assert sides("layers", "mlp", "embed") == ((1,), (2,))
    assert sides("embed", "heads", "head_dim") == ((0,), (1, 2))
    assert sides("layers", "heads", "head_dim", "embed") == ((1, 2), (3,))
    assert sides("embed", None, "recurrent") == ((0,), (2,))  # a matrix for each gate
    assert sides(None, None, "channels_in", "channels_out") == ((0, 1, 2), (3,))
    for other in (
        ("vocabulary", "embed"),
        ("embed", "vocabulary"),
        ("mlp", "classes"),
        ("positions", "embed"),
        ("heads", "head_dim"),  # a bias
        (None, "recurrent"),
        ("layers", "norm"),
        ("mlp",),
    ):
        assert sides(*other) is None


@pytest.mark.parametrize("scan", ["false", "true"])
def test_muons_updates_are_orthogonal_matrices_of_adamws_size(scan):
    program = build("muon", model__scan_layers=scan, optimizer__weight_decay="0")
    optimizer = build_optimizer(program.config, program.model_def.graph.axes())
    params = program.initialize().params
    gradients = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    key = jax.random.key(0)
    updates, *_ = jax.jit(optimizer.update)(gradients, optimizer.init(params), params, 1.0, key)
    layer = updates["backbone"]["layers"]["0"]
    for update in (layer["mixer"]["query"]["kernel"], layer["feed_forward"]["down"]["kernel"]):
        update = np.asarray(update[0] if scan == "true" else update)
        matrix = update.reshape(update.shape[0], -1)
        values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
        # Five steps of Newton and Schulz: around one, but for directions that hardly exist.
        assert np.percentile(values, 10) > 0.6 and values.max() < 1.3
    head = np.asarray(updates["embedding"]["head"]["kernel"])
    np.testing.assert_allclose(np.abs(head), 1, rtol=0.02)  # Adam's first step


@pytest.mark.parametrize(("steps", "taken"), [(0, 1.0), (99, 100**-0.8), (10**6, 1e-3)])
def test_adafactors_mean_of_squares_takes_less_and_less_but_never_nothing(steps, taken):
    program = build("adafactor", optimizer__beta1="0", optimizer__gradient_clip_norm="none")
    optimizer = build_optimizer(
        program.config, {"a": program.model_def.graph.axes()["backbone"]["norm"]["scale"]}
    )
    params = {"a": jnp.zeros(3)}
    state = jax.tree.map(
        lambda leaf: leaf + steps if leaf.dtype == jnp.int32 else leaf, optimizer.init(params)
    )
    *_, state = optimizer.update({"a": jnp.full(3, 2.0)}, state, params, 1e-3, jax.random.key(0))
    (mean,) = (leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,))
    np.testing.assert_allclose(mean, taken * 2.0**2, rtol=1e-4)


def test_schedule_free_is_optaxs_and_its_weights_are_the_average():
    program = build(
        "schedule_free", optimizer__gradient_clip_norm="none", optimizer__weight_decay="0"
    )
    settings = program.config.optimizer
    ours = build_optimizer(
        program.config, {"a": program.model_def.graph.axes()["backbone"]["norm"]["scale"]}
    )
    theirs = optax.contrib.schedule_free_adamw(
        settings.learning_rate, None, settings.beta1, settings.beta2, settings.epsilon
    )
    params = {"a": jnp.array([1.0, -2.0, 3.0])}
    x, state, y, other = params, ours.init(params), params, theirs.init(params)

    def gradient(at):
        return {"a": jnp.sin(at["a"]) + at["a"]}

    for _ in range(20):
        np.testing.assert_allclose(ours.gradient_point(x, state)["a"], y["a"], rtol=1e-5)
        towards, share, state = ours.update(
            gradient(ours.gradient_point(x, state)),
            state,
            x,
            settings.learning_rate,
            jax.random.key(0),
        )
        x = optax.tree.add_scale(x, share, towards)
        updates, other = theirs.update(gradient(y), other, y)
        y = optax.apply_updates(y, updates)
    average = optax.contrib.schedule_free_eval_params(other, y)
    np.testing.assert_allclose(x["a"], average["a"], rtol=1e-5)
    assert not np.allclose(x["a"], y["a"], rtol=1e-3)


@pytest.mark.parametrize("name", few_of(["adamw", "muon", "schedule_free"], "muon"))
def test_moments_in_bfloat16_take_half_the_bytes_and_lead_the_same_way(name):
    wide, narrow = build(name), build(name, optimizer__state_dtype="bfloat16")

    def moments(program):
        leaves = [m for m in jax.tree.leaves(program.abstract_state.optimizer) if m.ndim]
        return {str(m.dtype) for m in leaves}, sum(m.size * m.dtype.itemsize for m in leaves)

    (_, most), (kinds, less) = moments(wide), moments(narrow)
    assert "bfloat16" in kinds
    assert less < most * (0.8 if name == "schedule_free" else 0.55)
    _, one = go_on(wide, wide.initialize(), 0, STEPS)
    _, other = go_on(narrow, narrow.initialize(), 0, STEPS)
    np.testing.assert_allclose(other, one, rtol=2e-3)
    assert other != one


def test_a_multiplier_slows_what_its_pattern_names_and_decay_spares_it():
    plain = build("adamw", optimizer__weight_decay="0")
    slowed = build(
        "adamw",
        optimizer__weight_decay="0.5",
        optimizer__no_decay="embedding.*,*.up.kernel",
        optimizer__learning_rate_multipliers="embedding.*=0.25,embedding.head.*=0",
    )
    before = jax.device_get(plain.initialize().params)
    moved = [
        jax.tree.map(np.subtract, jax.device_get(go_on(p, p.initialize(), 0, 1)[0].params), before)
        for p in (plain, slowed)
    ]
    one, other = (m["embedding"]["tokens"]["embedding"] for m in moved)
    np.testing.assert_allclose(other, 0.25 * one, atol=1e-8)
    assert not np.any(moved[1]["embedding"]["head"]["kernel"])
    up, down = (
        [m["backbone"]["layers"]["0"]["feed_forward"][name]["kernel"] for m in moved]
        for name in ("up", "down")
    )
    np.testing.assert_array_equal(*up)
    assert not np.array_equal(*down)


@pytest.mark.parametrize(
    ("field", "text", "wrong"),
    [
        ("no_decay", "embeddings.token", "'embeddings.token'"),
        ("learning_rate_multipliers", "embedding.tokens=0.5", "'embedding.tokens'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(field, text, wrong):
    with pytest.raises(UsageError, match=rf"{field}: {wrong} matches no .*embedding\.tokens\.emb"):
        build("adamw", **{f"optimizer__{field}": text})


def test_explain_shows_what_each_parameter_gets():
    config = runs.load(
        "shakespeare_char",
        optimizer__name="muon",
        optimizer__learning_rate_multipliers="backbone.layers.0.mixer.*=0.5",
        optimizer__no_decay="embedding.*",
    )
    rows = [line.split() for line in explain_parameters(config).splitlines()[1:]]
    table = {name: rest for name, *rest in rows}
    assert table["backbone.layers.*.feed_forward.up.kernel"] == ["muon", "0.001", "0.1"]
    assert table["backbone.layers.0.mixer.query.kernel"] == ["muon", "0.0005", "0.1"]
    assert table["backbone.layers.1.mixer.query.kernel"] == ["muon", "0.001", "0.1"]
    assert table["embedding.tokens.embedding"] == ["adamw", "0.001", "0"]
    assert table["backbone.norm.scale"] == ["adamw", "0.001", "0"]
    program = runs.build(config)
    param_groups = parameter_groups(config, program.model_def.graph.axes())
    assert len(jax.tree.leaves(param_groups)) == len(jax.tree.leaves(program.abstract_state.params))
