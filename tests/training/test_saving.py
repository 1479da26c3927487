"""A save that fails is told, costs nothing that was saved, and is tried again; what a run did not
write is never deleted."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from tests.training.test_checkpoints import AXES, CONFIG, make_state
from training import checkpoints as checkpoints_module
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints, NotSaved, finished_steps, write_manifest
from training.hashes import bytes_on_disk
from training.manifest import verify

FULL = OSError(28, "No space left on device", "manifest.json")


class Run:
    """Saves steps as a run does; `told` has its warnings."""

    def __init__(self, folder: Path, **options):
        self.told: list[str] = []
        defaults = {"keep_last": 9, "keep_best": 0, "metric": BestMetric("loss", False)}
        self.checkpoints = Checkpoints(folder, warn=self.told.append, **(defaults | options))

    def save(self, step: int, loss: float = 1.0) -> None:
        contents = {"config": CONFIG, "data": {}, "metrics": {"loss": loss}, "versions": {}}
        self.checkpoints.save(step, make_state(step), axes=AXES, contents=contents)

    def settle(self) -> None:
        """The next step, once the save in the background is over."""
        if self.checkpoints._pending is not None:
            self.checkpoints._pending.exception()
        self.checkpoints.check()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def run(folder):
    folder.parent.mkdir()
    made = []

    def make(**options) -> Run:
        made.append(Run(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.checkpoints.close()


@pytest.fixture
def failing(monkeypatch) -> Callable[[set[int]], None]:
    """Makes the saves of some steps fail when their manifests are written."""

    def fail(steps: set[int]) -> None:
        def write(path, *arguments, **more):
            if int(path.name) in steps:
                raise FULL
            write_manifest(path, *arguments, **more)

        monkeypatch.setattr(checkpoints_module, "write_manifest", write)

    return fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_save_is_told_at_the_next_step_and_leaves_the_older_ones(run, folder, failing):
    failing({2})
    training = run(max_failures=3, keep_last=1)
    training.save(1)
    training.save(2)
    assert not training.told
    training.settle()
    (told,) = training.told
    assert "checkpoint 2 is not saved: manifest.json: No space left on device" in told
    assert "checkpoint 1 is kept; failure 1 of the 3 in a row that end a run" in told
    assert training.checkpoints.saved_step == 1
    assert names(folder) == ["1"] and verify(folder / "1")
    training.save(3)
    training.settle()
    assert training.checkpoints.saved_step == 3 and names(folder) == ["3"]
    assert len(training.told) == 1


def test_a_run_ends_after_a_number_of_failures_in_a_row(run, folder, failing):
    failing({2, 3, 5, 6, 7})
    training = run(max_failures=3)
    for step in (1, 2, 3, 4, 5, 6):  # never three in a row
        training.save(step)
        training.settle()
    with pytest.raises(
        NotSaved, match=r"3 saves in a row failed: .*No space left on device"
    ) as last:
        training.save(7)
    assert "the same command goes on from checkpoint 4" in str(last.value)
    assert finished_steps(folder) == [1, 4] and len(training.told) == 5
    with pytest.raises(NotSaved):
        training.save(8)


def test_the_last_step_of_a_run_has_to_be_saved(run, failing):
    failing({2})
    training = run(max_failures=3)
    training.save(1)
    training.checkpoints.require(1)
    training.save(2)
    with pytest.raises(NotSaved, match=r"checkpoint 2 is not saved: .*No space left on device"):
        training.checkpoints.require(2)


def test_writing_that_can_not_begin_is_a_failure_too(run, folder, monkeypatch):
    training = run(max_failures=3)
    training.save(1)
    training.checkpoints.wait()
    save = training.checkpoints._checkpointer.save

    def refuse(*arguments, **more):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(training.checkpoints._checkpointer, "save", refuse)
    training.save(2)
    training.settle()
    assert f"checkpoint 2 is not saved: {folder}: Permission denied" in training.told[0]
    monkeypatch.setattr(training.checkpoints._checkpointer, "save", save)
    training.save(3)
    training.checkpoints.require(3)


def test_a_mistake_of_the_code_is_no_failure_of_the_disk(run, monkeypatch):
    def mistake(*arguments, **more):
        raise KeyError("format")

    monkeypatch.setattr(checkpoints_module, "write_manifest", mistake)
    training = run(max_failures=3)
    training.save(1)
    with pytest.raises(KeyError, match="format"):
        training.settle()


def test_room_is_looked_for_before_a_save(run, folder, monkeypatch):
    free = 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    training = run(max_failures=2)
    training.save(1)
    training.checkpoints.wait()
    size = bytes_on_disk(verify(folder / "1")["files"])
    free = size - 1
    training.save(2)
    (told,) = training.told
    assert "checkpoint 2 is not saved: it needs about 0." in told and " MB free" in told
    assert names(folder) == ["1"]
    free = size
    training.save(3)
    training.checkpoints.require(3)

    resumed = run()
    free = bytes_on_disk(verify(folder / "3")["files"]) - 1  # The number of files may differ.
    with pytest.raises(NotSaved, match="it needs about"):
        resumed.save(4)


def test_room_for_the_first_step_is_that_of_its_arrays(run, monkeypatch):
    arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(make_state(1)))
    for free, is_enough in ((arrays - 1, False), (arrays, True)):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free)
        )
        training = run()
        if is_enough:
            training.save(1)
            training.checkpoints.require(1)
        else:
            with pytest.raises(NotSaved, match=r"it needs about 0\.0 MB"):
                training.save(1)


def test_a_folder_in_the_place_of_a_step_is_left_alone(run, folder):
    (folder / "2").mkdir(parents=True)
    (folder / "2" / "notes.txt").write_text("mine")
    training = run(max_failures=2, keep_last=1)
    training.save(1)
    training.save(2)
    assert f"{folder / '2'} is there already, and this run did not write it" in training.told[0]
    training.save(3)
    training.checkpoints.require(3)
    assert names(folder) == ["2", "3"] and (folder / "2" / "notes.txt").read_text() == "mine"


def test_retention_deletes_only_steps_that_a_run_wrote(run, folder, tmp_path):
    before = run(keep_last=9)
    for step in (1, 2, 3, 4):
        before.save(step)
    before.checkpoints.wait()
    (folder / "1" / "notes.txt").write_text("mine")
    shutil.copytree(folder / "3", folder / "7")  # a copy by another number
    (folder / "2").rename(tmp_path / "elsewhere")
    (folder / "2").symlink_to(tmp_path / "elsewhere")
    for name in ("5", "best", "4.bak"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("mine")

    training = run(keep_last=1)
    training.save(8)
    training.checkpoints.require(8)
    assert names(folder) == ["1", "2", "4.bak", "5", "7", "8", "best"]
    assert (folder / "7" / "model").is_dir() and verify(folder / "2")
    assert sorted(training.told) == [
        "checkpoint 1 is not deleted: it holds notes.txt, which the run did not write",
        "checkpoint 2 is not deleted: its folder is a link",
    ]
    training.save(9)
    training.checkpoints.require(9)
    assert len(training.told) == 2 and "8" not in names(folder)


def test_the_last_and_the_best_step_outlive_failures(run, folder, failing):
    failing({3, 4, 5})
    training = run(max_failures=9, keep_last=1, keep_best=1)
    for step, loss in {1: 1.0, 2: 2.0, 3: 0.5, 4: 3.0, 5: 3.0}.items():
        training.save(step, loss)
        training.settle()
        assert finished_steps(folder) == ([1] if step == 1 else [1, 2])
    training.save(6, 3.0)
    training.checkpoints.require(6)
    assert finished_steps(folder) == [1, 6]


def test_a_step_that_can_not_be_deleted_is_told_once_and_stops_nothing(run, folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(checkpoints_module, "remove_step", refuse)
    training = run(keep_last=1)
    for step in (1, 2, 3):
        training.save(step)
    training.checkpoints.require(3)
    assert training.told == [
        f"checkpoint {step} is not deleted: {folder / str(step)}: Permission denied"
        for step in (1, 2)
    ]


def test_a_copied_or_renamed_step_is_not_used(run, folder):
    training = run()
    training.save(1)
    training.save(2)
    training.checkpoints.require(2)
    os.rename(folder / "2", folder / "5")
    warnings: list[str] = []
    assert checkpoints_module.find_good_step(folder, warnings.append)[0] == 1
    assert "5 is a copy of step 2, by another number" in warnings[0]
    assert finished_steps(folder) == [1]
