"""A run on a disk that is full keeps what it saved, says so, and goes on once there is room.

Real file systems of a few megabytes; without root, `tests/training/test_saving.py` has the errors
alone.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

import configs
import train
from tests.end_to_end.verbs import TINY_TEXT, write_text
from tests.training.test_checkpoints import make_state
from tests.training.test_saving import Run, names
from training.checkpoints import Checkpoints, finished_steps
from training.manifest import verify


class Disk:
    """A file system in memory, whose size can be changed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def resize(self, size: int) -> None:
        options = f"remount,size={size}"
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True, capture_output=True)

    def used(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.folder.rglob("*"))


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    """The folder `checkpoints` of a workdir, with 64 MB."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_writing_that_fills_the_disk_is_told_and_leaves_nothing(disk, monkeypatch, capfd):
    monkeypatch.setattr(Checkpoints, "_obstacle", lambda *arguments: None)  # as if nobody looked
    training = Run(disk.folder, max_failures=2)
    states = {}

    def state(step: int):
        large = make_state(step)
        for n, key in enumerate(jax.random.split(jax.random.key(step), 32)):
            large.params[f"table{n}"] = jax.random.normal(key, (256, 128))
        return states.setdefault(step, large)

    monkeypatch.setattr("tests.training.test_saving.make_state", state)
    training.save(1)
    training.checkpoints.require(1)
    disk.resize(disk.used() + (2 << 20))
    training.save(2)
    training.settle()
    (told,) = training.told
    assert "checkpoint 2 is not saved: No space left on device; checkpoint 1 is kept" in told
    assert names(disk.folder) == ["1"] and verify(disk.folder / "1")
    assert capfd.readouterr().err == ""  # no stack of Orbax, nor of TensorStore
    disk.resize(64 << 20)
    training.save(3)
    training.checkpoints.require(3)
    assert finished_steps(disk.folder) == [1, 3] and verify(disk.folder / "3")
    training.checkpoints.close()


def test_a_run_ends_after_failures_in_a_row_and_goes_on_once_there_is_room(
    disk, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(Path(train.__file__).parent)
    fields = TINY_TEXT | {
        "data.path": str(write_text(tmp_path / "input.txt")),
        "data.cache_dir": str(tmp_path / "cache"),
        "checkpoint.every_steps": "3",
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": "0",
    }
    del fields["train.steps"]
    recipe = f"--config={configs.__path__[0]}/shakespeare_char.py"

    def run(steps: int) -> tuple[int, str]:
        arguments = [f"--config.{name}={value}" for name, value in fields.items()]
        workdir = f"--workdir={disk.folder.parent}"
        status = train.main([recipe, workdir, *arguments, f"--config.train.steps={steps}"])
        return status, capsys.readouterr().err

    assert run(3)[0] == 0
    disk.resize(disk.used() * 3 // 2)
    status, told = run(20)
    assert status == 1
    for step, number in ((6, 1), (9, 2), (12, 3)):
        assert f"checkpoint {step} is not saved: it needs about " in told
        assert f"failure {number} of the 3 in a row that end a run" in told
    assert "3 saves in a row failed: " in told and "goes on from checkpoint 3" in told
    assert names(disk.folder) == ["3"] and verify(disk.folder / "3")

    disk.resize(64 << 20)
    status, told = run(20)
    assert status == 0 and "going on from checkpoint 3" in told
    assert finished_steps(disk.folder)[-1] == 20
