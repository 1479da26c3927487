"""A checkpoint is used only when it is proven whole; damage is named and an older one is used."""

import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.errors import UsageError
from training import checkpoints as checkpoints_module
from training.arrays import restore_state
from training.best_metric import BestMetric
from training.checkpoints import (
    Checkpoints,
    best_step,
    find_good_step,
    finished_steps,
    lock_good_step,
    ranked_steps,
    set_aside_unusable,
)
from training.manifest import Damaged, verify
from training.step import TrainState


def make_state(seed: int) -> TrainState:
    key = jax.random.key(seed)
    params = {
        "embedding": {"table": jax.random.normal(key, (32, 8))},
        "layers": {"0": {"kernel": jax.random.normal(key, (8, 8)), "bias": jnp.full(8, seed)}},
    }
    return TrainState(
        step=jnp.int32(seed),
        skipped=jnp.int32(0),
        params=params,
        statistics={"mean": jnp.ones(3)},
        optimizer=(jax.tree.map(jnp.zeros_like, params), jnp.int32(7)),
        ema=None,
        ema_statistics=None,
    )


CONFIG = {"task": {"name": "classification"}}
AXES = {"embedding": {"table": "ve"}, "layers": {"0": {"kernel": "ee", "bias": "e"}}}


def save_all(folder: Path, steps: dict[int, float], **options) -> None:
    defaults = {"keep_last": 9, "keep_best": 1, "metric": BestMetric("loss", False)}
    checkpoints = Checkpoints(folder, **(defaults | options))
    for step, loss in steps.items():
        contents = {"config": CONFIG, "data": {}, "metrics": {"loss": loss}, "versions": {}}
        checkpoints.save(step, make_state(step), axes=AXES, contents=contents)
    checkpoints.close()


def abstract(state: TrainState) -> TrainState:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save_all(folder, {1: 3.0, 2: 2.0})
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))


def files_of(step: Path) -> list[str]:
    return sorted(p.relative_to(step).as_posix() for p in step.rglob("*") if p.is_file())


def test_what_was_saved_comes_back_bit_for_bit(folder):
    step, manifest = find_good_step(folder, warn=pytest.fail)
    restored = restore_state(folder, step, manifest, abstract(make_state(0)))
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(2))


def test_a_state_saved_on_one_device_comes_back_on_eight(folder):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), make_state(0)
    )
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    table = target.params["embedding"]["table"]
    target.params["embedding"]["table"] = jax.ShapeDtypeStruct(
        table.shape, table.dtype, sharding=rows
    )
    step, manifest = find_good_step(folder, warn=pytest.fail)
    restored = restore_state(folder, step, manifest, target)
    assert restored.params["embedding"]["table"].sharding == rows
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(2))


def test_every_file_cut_short_is_found_and_named_and_the_older_step_used(folder):
    for name in files_of(folder / "2"):
        path = folder / "2" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        warnings = []
        step, _ = find_good_step(folder, warnings.append)
        assert step == 1, name
        assert str(path) in warnings[0], (name, warnings)
        path.write_bytes(whole)
    assert find_good_step(folder, pytest.fail)[0] == 2


def test_one_bit_flipped_in_any_file_is_found_and_named_and_the_older_step_used(folder):
    random = np.random.default_rng(0)
    for name in files_of(folder / "2"):
        path = folder / "2" / name
        whole = path.read_bytes()
        for _ in range(8):
            flipped = bytearray(whole)
            flipped[random.integers(len(whole))] ^= 1 << int(random.integers(8))
            path.write_bytes(flipped)
            warnings = []
            step, _ = find_good_step(folder, warnings.append)
            assert step == 1, name
            assert str(path) in warnings[0], (name, warnings)
        path.write_bytes(whole)
    assert find_good_step(folder, pytest.fail)[0] == 2


def test_a_missing_and_an_added_file_are_named(folder):
    (folder / "2" / "stray").write_text("x")
    victim = folder / "2" / "model" / "_METADATA"
    victim.unlink()
    with pytest.raises(Damaged, match=r"_METADATA is missing; .*stray is not in the manifest"):
        verify(folder / "2")


def test_a_step_without_a_manifest_was_never_finished(folder):
    (folder / "2" / "manifest.json").unlink()
    warnings = []
    assert find_good_step(folder, warnings.append)[0] == 1
    assert "never finished" in warnings[0]
    assert finished_steps(folder) == [1]


def test_a_manifest_that_can_not_be_read_is_named_and_the_older_step_used(folder):
    path = folder / "2" / "manifest.json"
    path.unlink()
    path.mkdir()
    warnings = []
    assert find_good_step(folder, warnings.append)[0] == 1
    assert warnings == [f"checkpoint 2 is not used: {path} can't be read (Is a directory)"]
    assert finished_steps(folder) == [1]


def test_a_digit_that_changes_no_value_is_found_too(tmp_path):
    save_all(tmp_path / "c", {1: 0.1 + 0.2})
    path = tmp_path / "c" / "1" / "manifest.json"
    text = path.read_text()
    other = text.replace("0.30000000000000004", "0.30000000000000005")
    assert other != text and json.loads(other) == json.loads(text)
    path.write_text(other)
    with pytest.raises(Damaged, match=r"manifest\.json is damaged .not as it was written"):
        verify(path.parent)


def test_files_and_folders_with_other_names_are_no_steps(folder):
    (folder / "2").rename(folder / "02")
    (folder / "7").write_text("mine")
    assert find_good_step(folder, pytest.fail)[0] == 1
    set_aside_unusable(folder, 1, pytest.fail)
    assert sorted(path.name for path in folder.iterdir()) == ["02", "1", "7"]


def test_when_no_step_is_whole_nothing_is_guessed(folder):
    for step in "12":
        (folder / step / "manifest.json").write_text("{}")
    with pytest.raises(Damaged, match="none of the checkpoints"):
        find_good_step(folder, lambda text: None)


def test_a_first_checkpoint_whose_writing_was_cut_off_is_no_reason_not_to_begin(folder):
    for step in "12":
        (folder / step / "manifest.json").unlink()
    warnings = []
    assert find_good_step(folder, warnings.append) is None
    assert len(warnings) == 2 and all("never finished" in line for line in warnings)


def test_unusable_steps_are_set_aside_and_half_written_ones_removed(folder):
    (folder / "2" / "manifest.json").unlink()
    (folder / "3.orbax-checkpoint-tmp-7").mkdir()
    (folder / "notes").mkdir()
    told = []
    set_aside_unusable(folder, 1, told.append)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "2.unusable", "notes"]
    assert len(told) == 2


def test_the_last_k_and_the_best_k_are_kept(tmp_path):
    save_all(tmp_path / "c", {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0, 5: 4.0}, keep_last=2, keep_best=2)
    assert finished_steps(tmp_path / "c") == [2, 3, 4, 5]


def test_a_better_step_than_the_last_is_told(tmp_path):
    save_all(tmp_path / "c", {1: 3.0, 2: 1.0, 3: 2.0})
    metric = BestMetric("loss", higher_is_better=False)
    checkpoints = Checkpoints(tmp_path / "c", keep_last=9, keep_best=1, metric=metric)
    assert checkpoints.better_than(3) == (2, 1.0)
    assert checkpoints.better_than(2) is None and checkpoints.better_than(4) is None
    checkpoints.close()


def test_best_of_an_accuracy_is_the_highest(tmp_path):
    values = {1: 0.5, 2: 0.9, 3: 0.7}
    save_all(tmp_path / "c", values, keep_last=1, keep_best=1, metric=BestMetric("loss", True))
    assert finished_steps(tmp_path / "c") == [2, 3]


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_what_is_not_finite_is_never_the_best_and_ends_no_run(tmp_path, higher_is_better):
    metric = BestMetric("loss", higher_is_better)
    values = {1: math.nan, 2: 2.0, 3: math.inf, 4: -math.inf}
    save_all(tmp_path / "c", values, keep_last=1, metric=metric)
    assert finished_steps(tmp_path / "c") == [2, 4]
    assert ranked_steps(tmp_path / "c", metric) == [(2, 2.0)]
    checkpoints = Checkpoints(tmp_path / "c", keep_last=1, keep_best=1, metric=metric)
    assert checkpoints.best() == 2.0
    checkpoints.close()


def test_another_models_arrays_are_refused_by_name(folder):
    target = abstract(make_state(0))
    table = target.params["embedding"].pop("table")
    target.params["embedding"]["weights"] = table
    target.params["layers"]["0"]["bias"] = jax.ShapeDtypeStruct((9,), jnp.float32)
    step, manifest = find_good_step(folder, pytest.fail)
    with pytest.raises(UsageError, match=r"params.embedding.weights is not in it") as error:
        restore_state(folder, step, manifest, target)
    assert "params.layers.0.bias is int32[8] in it, float32[9] in the model" in str(error.value)


def refusal(folder: Path, target: TrainState, **config: object) -> str:
    """The message about a checkpoint that does not fit a state; nothing of it is read."""
    step, manifest = find_good_step(folder, pytest.fail)
    with pytest.raises(UsageError) as error:
        restore_state(folder, step, manifest | {"config": config}, target)
    return str(error.value)


def test_a_renamed_layer_is_told_with_the_nearest_name_and_both_sides(folder):
    target = abstract(make_state(0))
    target.params["layers"]["0"]["kernels"] = target.params["layers"]["0"].pop("kernel")
    told = refusal(folder, target)
    assert "params.layers.0.kernels is not in it (float32[8, 8] in the model; " in told
    assert "the nearest is params.layers.0.kernel, float32[8, 8])" in told
    assert "params.layers.0.kernel, float32[8, 8], is not in the model" in told
    workdir = f"--config.train.initialize_from={folder.parent}"
    assert f"{workdir} --config.train.initialize_step=2" in told


def test_an_array_of_the_checkpoint_that_the_model_lacks_is_not_dropped_in_silence(folder):
    target = abstract(make_state(0))
    del target.params["layers"]["0"]["bias"]
    assert "params.layers.0.bias, int32[8], is not in the model" in refusal(folder, target)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_another_dtype_is_told_with_both_and_nothing_is_cast(folder, dtype):
    target = abstract(make_state(0))
    table = target.params["embedding"]["table"]
    target.params["embedding"]["table"] = jax.ShapeDtypeStruct(table.shape, dtype)
    expected = f"table is float32[32, 8] in it, {jnp.dtype(dtype)}[32, 8] in the model"
    assert expected in refusal(folder, target)


def test_the_state_of_another_optimizer_is_told_with_the_name_of_its_own(folder):
    state = abstract(make_state(0))
    other = state.replace(optimizer={"momentum": state.optimizer[0]})
    told = refusal(folder, other, optimizer={"name": "adamw"})
    assert "optimizer.momentum.embedding.table is not in it (float32[32, 8] in the model; " in told
    assert " and 4 more (it was saved with optimizer.name=adamw)" in told


def test_the_failure_of_an_asynchronous_save_reaches_the_loop(tmp_path):
    metric = BestMetric("loss", higher_is_better=False)
    checkpoints = Checkpoints(tmp_path / "c", keep_last=1, keep_best=0, metric=metric)
    contents = {"config": object(), "data": {}, "metrics": {}, "versions": {}}  # no JSON
    checkpoints.save(1, make_state(1), axes=AXES, contents=contents)
    with pytest.raises(TypeError, match="JSON"):
        for _ in range(2000):
            checkpoints.check()
            jax.block_until_ready(jnp.zeros(1))
            if checkpoints._pending is None:
                break
            checkpoints._pending.exception()
    assert finished_steps(tmp_path / "c") == []
    checkpoints.close()


def test_the_manifest_lists_every_array_with_shape_dtype_and_axes(folder):
    leaves = json.loads((folder / "2" / "manifest.json").read_text())["leaves"]
    assert leaves["params.embedding.table"] == {
        "shape": [32, 8],
        "dtype": "float32",
        "axes": ["v", "e"],
    }
    assert leaves["step"] == {"shape": [], "dtype": "int32"}
    assert len(leaves) == len(jax.tree.leaves(make_state(0)))


def test_a_step_that_is_read_is_not_deleted_until_it_is_let_go(tmp_path):
    folder = tmp_path / "c"
    save_all(folder, {1: 1.0})
    step, _, step_lock = lock_good_step(folder, pytest.fail)
    save_all(folder, {2: 2.0, 3: 3.0}, keep_last=1, keep_best=0)
    assert step == 1 and finished_steps(folder) == [1, 3]
    restored = restore_state(folder, 1, verify(folder / "1"), abstract(make_state(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(1))
    step_lock.release()
    save_all(folder, {4: 4.0}, keep_last=1, keep_best=0)
    assert finished_steps(folder) == [4]


def test_a_step_that_goes_while_it_is_chosen_means_choosing_again(folder, monkeypatch):
    """As where the file system has no locks: the step is deleted between choice and reading."""
    taken = []

    def verify_late(path):
        if not taken:
            taken.append(path)
            shutil.rmtree(path)
            save_all(folder, {3: 1.0})
        return verify(path)

    monkeypatch.setattr(checkpoints_module, "verify_together", verify_late)
    assert find_good_step(folder, pytest.fail)[0] == 3
    assert taken == [folder / "2"]


def test_a_step_that_is_being_written_is_passed_over_without_a_word(folder):
    (folder / "2" / "manifest.json").unlink()
    step, _, step_lock = lock_good_step(folder, pytest.fail, is_written=lambda: True)
    step_lock.release()
    assert step == 1


def test_the_best_as_measured_before_stays_until_there_is_one_measured_as_now(tmp_path):
    task = {"name": "speech_recognition", "decoder": "greedy"}
    wer = BestMetric("wer", False, {"decoder": "greedy", "answered_examples": 200})
    beam = BestMetric("wer", False, {"decoder": "beam", "beam_size": 8, "answered_examples": 200})

    def save(step: int, value: float | None, decoder: str, metric: BestMetric) -> None:
        checkpoints = Checkpoints(tmp_path, keep_last=1, keep_best=1, metric=metric)
        contents = {
            "config": {"task": task | {"decoder": decoder}},
            "metrics": {} if value is None else {"wer": value},
        }
        checkpoints.save(step, make_state(step), axes=AXES, contents=contents)
        checkpoints.close()

    save(1, 0.1, "greedy", wer)
    save(2, 0.2, "greedy", wer)
    save(3, None, "beam", beam)
    assert finished_steps(tmp_path) == [1, 3]
    assert best_step(tmp_path, beam) == 1
    save(4, 0.5, "beam", beam)
    save(5, 0.6, "beam", beam)
    assert finished_steps(tmp_path) == [4, 5]
    assert best_step(tmp_path, wer) == 4
