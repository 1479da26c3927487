"""Checkpoints are read without their model: what is in them, and how two differ."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.errors import UsageError
from tests.training.test_checkpoints import AXES, abstract, make_state
from training.arrays import restore_state
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints
from training.copying import copy_step, copy_workdir
from training.inspection import (
    NOT_THERE,
    Step,
    differing_leaves,
    differing_settings,
    find_step,
    find_steps,
)
from training.manifest import Damaged, read_manifest, verify
from training.step import TrainState

CONFIG = {
    "task": {"name": "classification"},
    "train": {"steps": 9},
    "data": {"global_batch_size": 8},
}


def save(folder: Path, step: int, state: TrainState, **contents) -> Step:
    """Saves one state, as a run does."""
    metric = BestMetric("loss", higher_is_better=False)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=9, keep_best=0, metric=metric)
    known = {"config": CONFIG, "data": {"examples": 20}, "metrics": {}, "versions": {}}
    checkpoints.save(step, state, axes=AXES, contents=known | contents)
    checkpoints.close()
    return Step(folder / "checkpoints" / str(step))


def with_table(table: jax.Array) -> TrainState:
    """A state with another table of embeddings."""
    state = make_state(1)
    state.params["embedding"]["table"] = table
    return state


def differences(tmp_path: Path, one: jax.Array, other: jax.Array) -> list[dict]:
    """How two states differ that have these tables."""
    steps = [save(tmp_path / str(n), 1, with_table(table)) for n, table in enumerate((one, other))]
    return list(differing_leaves(*steps))


def test_equal_states_do_not_differ(tmp_path):
    steps = [save(tmp_path / name, 1, make_state(1)) for name in "ab"]
    assert list(differing_leaves(*steps)) == [] and differing_settings(*steps) == {}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32])
def test_values_that_differ_are_counted_and_measured(tmp_path, dtype):
    one = jnp.full((32, 8), 4, dtype)
    other = one.at[3, 5].set(5).at[7, 0].set(6)
    assert differences(tmp_path, one, other) == [
        {
            "name": "params.embedding.table",
            "elements": 256,
            "different": 2,
            "max_absolute": 2.0,
            "max_relative": pytest.approx(1 / 3),
            "not_finite": 0,
        }
    ]


def test_what_is_not_finite_is_counted_apart_and_two_nan_are_equal(tmp_path):
    one = jnp.ones((32, 8)).at[0, 0].set(jnp.nan).at[1, 1].set(jnp.inf)
    other = one.at[1, 1].set(1).at[2, 2].set(jnp.nan).at[3, 3].set(1.5)
    (found,) = differences(tmp_path, one, other)
    assert (found["different"], found["not_finite"], found["max_absolute"]) == (3, 2, 0.5)


def test_arrays_that_were_saved_in_other_shards_are_compared_by_their_values(tmp_path):
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    table = jax.random.normal(jax.random.key(0), (32, 8))

    def sharded(array: jax.Array, *axes: str | None) -> jax.Array:
        spec = jax.sharding.PartitionSpec(*axes)
        return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))

    assert (
        differences(tmp_path / "equal", sharded(table, "fsdp"), sharded(table, None, "fsdp")) == []
    )
    changed = sharded(table.at[31, 7].add(1), None, "fsdp")
    (found,) = differences(tmp_path / "changed", sharded(table, "fsdp"), changed)
    assert found["different"] == 1 and found["max_absolute"] == pytest.approx(1)


def test_other_names_shapes_and_dtypes_are_told_with_both_sides(tmp_path):
    one, other = make_state(1), make_state(1)
    one.params["layers"]["0"]["scale"] = jnp.ones(2)
    other.params["layers"]["0"]["bias"] = jnp.ones(9, jnp.int32)
    other.params["layers"]["0"]["kernel"] = one.params["layers"]["0"]["kernel"].astype(jnp.bfloat16)
    found = {
        one.pop("name"): one
        for one in differing_leaves(save(tmp_path / "a", 1, one), save(tmp_path / "b", 1, other))
    }
    assert found["params.layers.0.scale"] == {"only_in": 0}
    assert found["params.layers.0.bias"] == {"shapes": [[8], [9]]}
    kernel = found["params.layers.0.kernel"]
    assert kernel["dtypes"] == ["float32", "bfloat16"] and 0 < kernel["max_relative"] < 1 / 128


def test_fields_that_differ_are_told_with_both_values(tmp_path):
    other = {**CONFIG, "train": {"steps": 12, "ema_decay": 0.5}}
    steps = (
        save(tmp_path / "a", 1, make_state(1)),
        save(tmp_path / "b", 1, make_state(1), config=other),
    )
    expected = {"train.steps": (9, 12), "train.ema_decay": (NOT_THERE, 0.5)}
    assert differing_settings(*steps) == expected


def test_the_position_in_the_data_is_a_matter_of_the_step(tmp_path):
    step = save(tmp_path, 6, make_state(6))
    expected = {"batches": 6, "examples": 48, "epoch": 3, "example_of_epoch": 8}
    assert step.position == expected
    older = save(tmp_path, 7, make_state(7), data={})
    assert older.position == {"batches": 7, "examples": 56}


def test_a_step_is_found_by_a_workdir_its_checkpoints_and_its_own_folder(tmp_path):
    for number in (3, 12):
        save(tmp_path, number, make_state(number))
    folder = tmp_path / "checkpoints"
    assert [find_step(path, None).folder.name for path in (tmp_path, folder)] == ["12", "12"]
    assert find_step(tmp_path, 3) == find_step(folder / "3", None) == Step(folder / "3")
    (folder / "40").mkdir()  # not finished
    assert find_step(tmp_path, None).folder.name == "12" and len(find_steps(tmp_path)) == 3
    with pytest.raises(
        UsageError, match=r"--step=13: .* has no such step; the nearest is 12, of 3"
    ):
        find_step(tmp_path, 13)
    with pytest.raises(UsageError, match=r"checkpoint is not there \(did you mean .*checkpoints"):
        find_step(tmp_path / "checkpoint", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no checkpoint"):
        find_step(tmp_path / "empty", None)


def test_a_copy_is_whole_and_restores(tmp_path):
    step = save(tmp_path, 2, make_state(2))
    assert copy_step(step.folder, tmp_path / "copies" / "2") == step.stored_bytes
    manifest = verify(tmp_path / "copies" / "2")
    restored = restore_state(tmp_path / "copies", 2, manifest, abstract(make_state(0)))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(2))


def test_a_damaged_file_is_named_where_it_is_and_the_copy_has_no_manifest(tmp_path, monkeypatch):
    step = save(tmp_path, 2, make_state(2))
    victim = step.folder / "model" / "_METADATA"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + b"!")
    with pytest.raises(Damaged, match=str(victim)):
        copy_step(step.folder, tmp_path / "copy")
    assert not (tmp_path / "copy" / "manifest.json").exists()
    victim.write_bytes(whole)

    def copy_badly(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:-1])

    monkeypatch.setattr("training.copying.shutil.copyfile", copy_badly)
    with pytest.raises(Damaged, match=str(tmp_path / "other")):
        copy_step(step.folder, tmp_path / "other")
    assert not (tmp_path / "other" / "manifest.json").exists()


def test_a_step_that_a_run_deletes_while_a_workdir_is_copied_is_left_out(tmp_path):
    steps = [save(tmp_path, number, make_state(number)).folder for number in (1, 2)]
    gone = steps[0].rename(steps[0].with_name("1.removing"))
    copied = copy_workdir(tmp_path, tmp_path / "copy", steps)
    assert list(copied) == ["2"] and gone.exists()
    assert read_manifest(tmp_path / "copy" / "checkpoints" / "2")["step"] == 2
