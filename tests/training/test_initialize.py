"""A new run begins with another's parameters: what fits is taken, what does not is told."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.reading.saved import write_config
from configs.schema.config import Config
from parallel.mesh import make_mesh
from reporting.report.machine import versions
from tests.training import cells, runs
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints
from training.initialize import open_pretrained, plan_warm_start, pretrained_from_arrays
from training.lora import merged
from training.parameters import sides_of
from training.program import build_program
from training.restore import restore_model
from training.trees import flat, nested

BASE = {"mesh__data": "1", "train__ema_decay": "0.9"}
SPEC = DataSpec(num_classes=6, image_shape=(8, 8, 1))
TEN_CLASSES = DataSpec(num_classes=10, image_shape=(8, 8, 1))


def build(config: Config, spec: DataSpec = TEN_CLASSES):
    mesh = make_mesh(config)
    return build_program(config, spec, mesh)


def save(workdir: Path, program, states: dict[int, object], metrics: dict[int, float]) -> None:
    """What train.py leaves of a run."""
    workdir.mkdir()
    write_config(program.config, workdir)
    accuracy = BestMetric("accuracy", higher_is_better=True)
    folder = workdir / "checkpoints"
    checkpoints = Checkpoints(folder, keep_last=9, keep_best=1, metric=accuracy)
    for step, state in states.items():
        contents = {"config": program.config.model_dump(mode="json"), "data": SPEC.to_manifest(),
                    "metrics": {"accuracy": metrics[step]},
                    "history": {}, "versions": versions()}  # fmt: skip
        checkpoints.save(step, state, axes=program.model_def.graph.axes(), contents=contents)
    checkpoints.close()


@functools.cache
def trained():
    """A classifier of six classes, and two states of it that differ everywhere."""
    program = build(runs.load("digits_cnn", **BASE), SPEC)
    first = jax.device_get(program.initialize())

    def shifted(by: float):
        move = lambda tree: jax.tree.map(lambda x: x + np.float32(by), tree)  # noqa: E731
        return first.replace(params=move(first.params), statistics=move(first.statistics),
                             ema=move(move(first.params)),
                             ema_statistics=move(move(first.statistics)))  # fmt: skip

    return program, {1: shifted(1.0), 2: shifted(2.0)}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("base") / "run"
    program, states = trained()
    save(workdir, program, states, {1: 0.9, 2: 0.5})
    return workdir


def begin(config: Config, spec: DataSpec = TEN_CLASSES):
    program = build(config, spec)
    source = Path(config.train.initialize_from)
    pretrained = open_pretrained(source, config.train.initialize_step, pytest.fail)
    warm_start = plan_warm_start(pretrained, config, program)
    return program, warm_start, program.initialize(*warm_start.load(program))


def load(workdir: Path, **fields: str) -> Config:
    fields = {"mesh__data": "1"} | fields
    return runs.load("digits_cnn", train__initialize_from=str(workdir), **fields)


@pytest.mark.parametrize("mesh", [{}, {"mesh__data": "2", "mesh__fsdp": "4"}])
def test_another_head_begins_fresh_and_all_else_with_the_averages(digits, mesh):
    program, warm_start, state = begin(
        load(digits, train__ema_decay="0.9", model__dropout="0.25", **mesh)
    )
    _, states = trained()
    fresh = flat(jax.device_get(program.initialize().params))
    given = flat(states[2].ema)
    for name, value in flat(state.params).items():
        expected = fresh if name.startswith("classes.") else given
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
        assert value.sharding == flat(program.abstract_state.params)[name].sharding
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.ema), state.params)
    jax.tree.map(np.testing.assert_array_equal, state.statistics, states[2].ema_statistics)
    assert jax.tree.leaves(state.statistics)
    assert int(state.step) == 0
    assert warm_start.messages == (
        f"begins with the averaged weights of {digits}, step 2",
        "unlike there: model.dropout was 0.3, is 0.25",
        "fresh: classes.bias (10 instead of 6 classes), classes.kernel (10 instead of 6 classes)",
    )
    assert warm_start.metadata["workdir"] == str(digits) and warm_start.metadata["step"] == 2


@pytest.mark.parametrize(("step", "number"), [("1", 1), ("best", 1), ("latest", 2)])
def test_any_step_may_be_taken(digits, step, number):
    config = load(digits, train__initialize_step=step)
    _, warm_start, state = begin(config, SPEC)
    _, states = trained()
    jax.tree.map(np.testing.assert_array_equal, state.params, states[number].ema)
    assert warm_start.messages == (f"begins with the averaged weights of {digits}, step {number}",)


def test_what_can_not_be_taken_is_refused(digits, tmp_path):
    def refusal(**fields: str) -> str:
        with pytest.raises(UsageError) as caught:
            begin(load(digits, **fields))
        return str(caught.value)

    assert "train.initialize_step=7: no such checkpoint in" in refusal(train__initialize_step="7")
    told = refusal(model__channels="48,64")
    assert "train.initialize_from: 4 of 10 parameters are as in the averaged weights" in told
    assert "model.channels was (32, 64), is (48, 64); " in told
    assert "(48 instead of 32 channels_out)" in told
    told = refusal(train__freeze="classes.kernel")
    assert "train.freeze would leave random what the averaged weights of" in told
    assert told.endswith("does not have: let them move, classes.kernel")
    told = refusal(train__lora__rank="2", train__lora__on="dense.*")
    assert "name them in train.lora.train_also, classes.bias, classes.kernel" in told
    with pytest.raises(UsageError, match=r"holds no run: it has no config\.json"):
        begin(load(tmp_path))


def test_a_change_of_low_rank_is_merged_before_another_run_begins(digits, tmp_path):
    """And of what is frozen there is no average, whoever reads it."""
    lora = {"train__lora__rank": "2", "train__lora__on": "dense.kernel,classes.*"}
    config = load(digits, train__ema_decay="0.9", **lora)
    program, warm_start, state = begin(config, SPEC)
    assert warm_start.messages[-1].startswith("trains ")
    random = np.random.default_rng(0)
    state = jax.device_get(state)
    ema = jax.tree.map(lambda x: random.normal(size=x.shape).astype(x.dtype), state.ema)
    assert [*ema] == ["lora"]
    state = state.replace(ema=ema)
    save(tmp_path / "changed", program, {3: state}, {3: 0.1})
    _, _, after = begin(load(tmp_path / "changed"), SPEC)
    axes = {name: of for name, of in flat(program.model_def.graph.axes()).items() if sides_of(of)}
    expected = merged(state.eval_params, axes, scale=8.0)
    for name, value in flat(expected).items():
        np.testing.assert_allclose(flat(after.params)[name], value, rtol=1e-6, err_msg=name)
    for weights, found in (("ema", state.eval_params), ("raw", state.params)):
        restored = restore_model(tmp_path / "changed", config, step="3", weights=weights,
                                 mesh=program.mesh, warn=pytest.fail)  # fmt: skip
        jax.tree.map(np.testing.assert_array_equal, restored.params, found)


def test_tables_of_tokens_are_taken_as_far_as_they_go(tmp_path):
    """A masked language model has a token more than the classifier that begins with it."""
    masked = cells.load("mixed, missing tokens", "one device")
    program = cells.build(masked)
    state = jax.device_get(program.initialize())
    save(tmp_path / "masked", program, {5: state}, {5: 1.0})
    recipe, fields = cells.CELLS["mixed, labelled text"]
    fields = cells.STEADY | dict(fields) | cells.BERT | {"mesh.data": "1"}
    fields |= {"train.initialize_from": str(tmp_path / "masked"), "model.pooling": "mean"}
    config = load_config(f"configs/{recipe}.py", fields, inputs=False)
    _, warm_start, labelled = begin(config, cells.invented_spec(config))
    table = state.params["embedding"]["tokens"]["embedding"]
    found = labelled.params["embedding"]["tokens"]["embedding"]
    assert len(table) == len(found) + 1
    np.testing.assert_array_equal(found, table[:-1])
    assert "taken as far as they go: embedding.tokens.embedding (67 instead of 68 vocabulary)" in (
        warm_start.messages
    )
    assert "fresh: classes.bias (not there), classes.kernel (not there)" in warm_start.messages


def test_arrays_at_hand_are_taken_likewise():
    config = runs.load("digits_cnn", mesh__data="1", mesh__fsdp="8")
    program = build(config, SPEC)
    _, states = trained()
    params = {name: tree for name, tree in states[1].params.items() if name != "classes"}
    first, *others = flat(states[1].statistics)
    statistics = nested({name: flat(states[1].statistics)[name] for name in others})
    pretrained = pretrained_from_arrays(params, statistics, name="a file", metadata={"file": "a"})
    warm_start = plan_warm_start(pretrained, config, program)
    assert warm_start.messages == (
        "begins with a file",
        f"fresh: classes.bias (not there), classes.kernel (not there), {first} (not there)",
    )
    assert warm_start.metadata == {"file": "a"}
    state = program.initialize(*warm_start.load(program))
    placed, abstract = flat(state.params), flat(program.abstract_state.params)
    for name, value in flat(params).items():
        np.testing.assert_array_equal(placed[name], value)
        assert placed[name].sharding == abstract[name].sharding
    for name, value in flat(statistics).items():
        np.testing.assert_array_equal(flat(state.statistics)[name], value)


def test_without_another_run_nothing_is_told():
    config = runs.load("digits_cnn", mesh__data="1")
    warm_start = plan_warm_start(None, config, build(config))
    assert (warm_start.messages, warm_start.metadata) == ((), None)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Workdirs of one model by (parameters' dtype, average, LoRA), with what each is meant to be:
    its weights in float32, changes of low rank added by NumPy."""

    @functools.cache
    def make(dtype: str, average: bool, lora: bool):
        fields = {"mesh__data": "1", "precision__parameter_dtype": dtype}
        fields |= {"train__ema_decay": "0.9"} if average else {}
        fields |= {"train__lora__rank": "2", "train__lora__on": "dense.kernel"} if lora else {}
        program = build(runs.load("digits_cnn", **fields), SPEC)
        random = np.random.default_rng(0)
        state = jax.device_get(program.initialize())

        def drawn(tree):
            return jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(x.dtype), tree)

        state = state.replace(params=drawn(state.params), ema=drawn(state.ema))
        workdir = tmp_path_factory.mktemp("of") / "run"
        save(workdir, program, {1: state}, {1: 0.5})
        weights = {name: np.float32(leaf) for name, leaf in flat(state.eval_params).items()}
        pair = [weights.pop(f"lora.dense.kernel.{one}", 0) for one in "ab"]
        if lora:
            weights["dense.kernel"] = weights["dense.kernel"] + 8.0 * (pair[0] @ pair[1])
        return workdir, program, state, weights

    return make


@pytest.mark.parametrize("lora", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("average", [False, True], ids=["raw", "ema"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("own", ["float32", "bfloat16"])
def test_whatever_number_format_another_run_has_it_is_rounded_once(
    run_of, dtype, average, lora, own
):
    workdir, _, _, weights = run_of(dtype, average, lora)
    config = load(workdir, precision__parameter_dtype=own, train__ema_decay="0.9")
    _, _, state = begin(config, SPEC)
    for name, value in flat(state.params).items():
        assert value.dtype == own
        exact = weights[name]
        # Half of a last place: of float32 sums a little more.
        error = np.abs(np.float32(value) - exact).max() / np.abs(exact).max()
        assert error <= (2**-8 if own == "bfloat16" else 1e-6), name


@pytest.mark.parametrize("average", [False, True], ids=["raw", "ema"])
def test_a_change_of_low_rank_is_used_as_exactly_as_it_is_kept(run_of, average):
    workdir, program, state, weights = run_of("bfloat16", average, True)
    restored = restore_model(workdir, program.config, step="1", weights=None,
                             mesh=program.mesh, warn=pytest.fail)  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.eval_params)
    used = restored.module.dense.kernel[...]
    np.testing.assert_allclose(np.float32(used), weights["dense.kernel"], rtol=1e-5, atol=1e-6)
