"""Who reads a workdir while its run goes on always finds a whole step."""

import subprocess
import time
from pathlib import Path

import jax
import pytest

from configs.reading.saved import read_config
from parallel.mesh import flat_mesh
from tests.end_to_end.verbs import ROOT, TINY_TEXT, command, environment, run, write_text
from training.checkpoints import finished_steps
from training.restore import restore_model


@pytest.fixture
def living(tmp_path) -> Path:
    """The workdir of a run that saves all the time and keeps one step alone."""
    text, workdir = write_text(tmp_path / "input.txt"), tmp_path / "run"
    fields = TINY_TEXT | {
        "data.path": str(text),
        "train.steps": "1000000",
        "train.log_every_steps": "1000",
        "train.evaluate_every_steps": "1000000",
        "checkpoint.every_steps": "2",
        "checkpoint.keep_last": "1",
        "checkpoint.keep_best": "0",
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": "0",
    }
    arguments = [f"--config.{name}={value}" for name, value in fields.items()]
    recipe = "--config=configs/shakespeare_char.py"
    process = subprocess.Popen(
        command("train.py", recipe, f"--workdir={workdir}", *arguments),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        while not finished_steps(workdir / "checkpoints"):
            assert process.poll() is None
            time.sleep(0.02)
        yield workdir
        assert process.poll() is None, "the run ended while it was read"
    finally:
        process.kill()
        process.wait()


def test_a_step_is_there_until_it_is_restored(living):
    config, mesh = read_config(living), flat_mesh(jax.devices()[:1])
    steps = []
    for _ in range(20):
        found = restore_model(
            living, config, step="latest", weights=None, mesh=mesh, warn=pytest.fail
        )
        steps.append(found.step)
    assert steps == sorted(steps) and len(set(steps)) > 5
    done = run("evaluate.py", f"--workdir={living}")
    assert "never finished" not in done.stderr
