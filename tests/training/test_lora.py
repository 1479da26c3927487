"""LoRA: the pairs alone move, they are the merged matrices, and they resume exactly anywhere."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from reporting.explanation import explain_parameters
from tests.training import cells, runs
from training.arrays import restore_state
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints, find_good_step
from training.lora import merged
from training.parameters import sides_of
from training.trees import flat

SMALL = {"model__depth": "1", "data__sequence_length": "16", "optimizer__name": "adamw"}
RANK, ALPHA = 2, 6.0
NAMED = ("query.kernel", "out.kernel", "up.kernel", "embedding.head.kernel")
LORA = {
    "train__lora__rank": str(RANK),
    "train__lora__alpha": str(ALPHA),
    "train__lora__on": ",".join(f"*{name}" for name in NAMED),
    "train__lora__train_also": "backbone.norm.scale",
}
MESHES = {
    "one device": {"mesh__data": "1"},
    "fsdp=8": {"mesh__data": "1", "mesh__fsdp": "8"},
    "data=2,fsdp=2,tensor=2": {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"},
}


def load(mesh: str = "one device", **fields: str):
    return runs.load("shakespeare_char", **SMALL, **MESHES[mesh], **(LORA | fields))


@functools.cache
def built(mesh: str):
    program = runs.build(load(mesh))
    return program, cells.compiled_step(program)


def go_on(mesh: str, state, first: int, last: int):
    program, step = built(mesh)
    losses = []
    for batch in list(cells.batches(program.config, last))[first:]:
        state, metrics = cells.take_step(program, step, state, batch)
        losses.append(metrics["loss"])
    return state, losses


@functools.cache
def fresh():
    """The state before the first step, on the host: the same for every mesh."""
    return jax.device_get(built("one device")[0].initialize())


def start(mesh: str):
    return cells.place(built(mesh)[0], fresh())


@functools.cache
def plain():
    """The model without pairs."""
    return runs.build(runs.load("shakespeare_char", **SMALL, mesh__data="1"))


def logits(program, params) -> np.ndarray:
    tokens = next(cells.batches(program.config, 1))["tokens"]
    return jax.jit(lambda params: program.model_def.bind(params, {})(tokens)[0])(params)


def test_step_0_is_the_model_as_it_was_and_only_the_pairs_of_named_matrices_move():
    program, _ = built("one device")
    before = fresh().params
    assert not any(b.any() for name, b in flat(before["lora"]).items() if name.endswith(".b"))
    own = {name: tree for name, tree in before.items() if name != "lora"}
    jax.tree.map(np.testing.assert_array_equal, own, jax.device_get(plain().initialize().params))
    np.testing.assert_array_equal(logits(program, before), logits(plain(), own))

    state, _ = go_on("one device", start("one device"), 0, 3)
    before = flat(before)
    for name, value in flat(jax.device_get(state.params)).items():
        moves = name.startswith("lora.") or name == "backbone.norm.scale"
        assert np.array_equal(value, before[name]) != moves, name
        assert not name.startswith("lora.") or name[:-2].endswith(NAMED)
    moments = [name for name, leaf in flat(state.optimizer).items() if leaf.ndim]
    assert len(moments) == 2 * (2 * len(NAMED) + 1)
    assert all("lora." in name or name.endswith("backbone.norm.scale") for name in moments)


def test_merged_weights_are_the_products_and_give_equal_logits():
    program, _ = built("one device")
    params = dict(fresh().params)
    random = np.random.default_rng(0)
    pairs = jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(x.dtype), params["lora"])
    params["lora"] = pairs
    axes = {name: of for name, of in flat(program.model_def.graph.axes()).items() if sides_of(of)}
    together = merged(params, axes, scale=ALPHA / RANK)
    assert "lora" not in together
    for name, rows in (("query", 64), ("out", 4 * 16)):  # heads on one side, and on the other
        kernel = params["backbone"]["layers"]["0"]["mixer"][name]["kernel"]
        pair = pairs["backbone"]["layers"]["0"]["mixer"][name]["kernel"]
        change = pair["a"].reshape(rows, RANK) @ pair["b"].reshape(RANK, 64)
        expected = kernel + ALPHA / RANK * change.reshape(kernel.shape)
        found = together["backbone"]["layers"]["0"]["mixer"][name]["kernel"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    changed = logits(program, params)
    np.testing.assert_allclose(changed, logits(plain(), together), atol=1e-6)
    assert np.abs(changed - logits(plain(), params)).max() > 1e-2


def test_it_resumes_exactly_and_meshes_agree(tmp_path):
    courses = {}
    for mesh in ("one device", "fsdp=8"):
        program, folder = built(mesh)[0], tmp_path / mesh
        state, losses = go_on(mesh, start(mesh), 0, 2)
        metric = BestMetric("loss", higher_is_better=False)
        checkpoints = Checkpoints(folder, keep_last=1, keep_best=0, metric=metric)
        checkpoints.save(2, state, axes=program.model_def.graph.axes(), contents={"metrics": {}})
        checkpoints.close()
        step, manifest = find_good_step(folder, pytest.fail)
        restored = restore_state(folder, step, manifest, program.abstract_state)
        state, more = go_on(mesh, state, 2, 4)
        resumed, again = go_on(mesh, restored, 2, 4)
        assert again == more
        jax.tree.map(np.testing.assert_array_equal, *jax.device_get((state, resumed)))
        courses[mesh] = losses + more
    assert len(set(courses["one device"])) == 4
    np.testing.assert_allclose(courses["fsdp=8"], courses["one device"], rtol=1e-5)


def test_pairs_and_their_moments_lie_as_their_matrix():
    state = runs.build(load("data=2,fsdp=2,tensor=2")).abstract_state  # as the arrays are born
    name = "lora.backbone.layers.0.mixer.query.kernel"  # [embed, heads, head_dim]
    params = flat(state.params)
    a, b = params[f"{name}.a"], params[f"{name}.b"]
    assert (a.shape, a.sharding.shard_shape(a.shape)) == ((64, RANK), (32, RANK))
    assert (b.shape, b.sharding.shard_shape(b.shape)) == ((RANK, 4, 16), (RANK, 2, 16))
    moments = [m for key, m in flat(state.optimizer).items() if key.endswith(f"{name}.b")]
    assert moments and all(m.sharding == b.sharding for m in moments)


@pytest.mark.parametrize("axes", [
    ("embed", "mlp"),
    ("layers", "embed", "heads", "head_dim"),
    ("heads", "head_dim", "embed"),
    ("embed", None, "recurrent"),
    (None, None, "channels_in", "channels_out"),
])  # fmt: skip
def test_a_kernel_is_a_matrix_by_its_axes(axes):
    """Scanned layers and gates are matrices beside each other, a window belongs to the inputs."""
    sizes = {"layers": 2, "embed": 4, "mlp": 6, "heads": 3, "head_dim": 2, "recurrent": 4,
             "channels_in": 2, "channels_out": 6, None: 3}  # fmt: skip
    shape = tuple(sizes[axis] for axis in axes)
    rows, columns = sides_of(axes)
    random = np.random.default_rng(0)
    beside = [i for i in range(len(axes)) if i not in (*rows, *columns)]
    kernel = random.normal(size=shape)
    a = random.normal(size=(*(n for i, n in enumerate(shape) if i not in columns), 5))
    b = random.normal(size=(5, *(n for i, n in enumerate(shape) if i not in rows)))
    params = {"kernel": kernel, "lora": {"kernel": {"a": a, "b": b}}}
    params = jax.tree.map(jnp.asarray, params)
    change = np.asarray(merged(params, {"kernel": axes}, scale=0.5)["kernel"]) - kernel
    order = (*beside, *rows, *columns)
    matrices = change.transpose(order).reshape(
        int(np.prod([shape[i] for i in beside], dtype=int)), np.prod([shape[i] for i in rows]), -1
    )
    assert (np.linalg.matrix_rank(matrices, tol=1e-4) == min(*matrices.shape[1:], 5)).all()
    # The first entry, by hand.
    here = (slice(None),) + (0,) * (b.ndim - 1)
    np.testing.assert_allclose(matrices[0, 0, 0], 0.5 * a[(0,) * (a.ndim - 1)] @ b[here], rtol=1e-4)


@pytest.mark.parametrize("cell", ["mixed, text", "rnn, text", "cnn, pictures"])
def test_every_family_has_matrices_to_change(cell):
    recipe, fields = cells.CELLS[cell]
    fields = dict(fields) | {"train.lora.rank": "2", "train.lora.on": "*", "mesh.data": "1"}
    config = load_config(f"configs/{recipe}.py", fields, inputs=False)
    program = cells.build(config)
    assert program.trained and all(name.startswith("lora.") for name in program.trained)
    kernels = [name for name in flat(program.abstract_state.params) if "kernel" in name]
    assert len({name[:-2] for name in program.trained if "kernel" in name}) > len(kernels) / 6


def test_wrong_patterns_are_refused():
    with pytest.raises(
        UsageError, match=r"train\.lora\.on: 'backbone\.\*\.q' matches no parameter"
    ):
        runs.build(load(train__lora__on="backbone.*.q"))
    with pytest.raises(UsageError, match=r"'backbone\.norm\.\*' matches no matrix, but backbone\."):
        runs.build(load(train__lora__on="backbone.norm.*"))
    with pytest.raises(UsageError, match=r"train\.lora\.train_also: 'clases\.\*' matches no"):
        runs.build(load(train__lora__train_also="clases.*"))


def test_explain_shows_the_pairs():
    told = explain_parameters(load())
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines()[1:]}
    assert rows["lora.backbone.layers.*.mixer.query.kernel.a"] == ["adamw", "0.001", "0.1"]
    assert rows["backbone.layers.*.mixer.query.kernel"] == ["frozen"]
