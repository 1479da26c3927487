"""A run that was killed and stopped on its way is the run that was not: nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu_training import arrays_of
from tests.end_to_end.verbs import (
    ROOT,
    TINY_TEXT,
    command,
    environment,
    metrics,
    run,
    write_text,
)
from training.checkpoints import finished_steps

RECIPES = {"attention": "shakespeare_char", "recurrence": "shakespeare_char_lstm"}


def settings(text: Path, **more: str) -> dict[str, str]:
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()}
    return fields | {"data__path": str(text)} | more


PACED = """
import pathlib, sys, time
import train
from configs.reading.command_line import run_verb
from reporting.run_log import RunLog

_, step, sent, *arguments = sys.argv
write = RunLog.write

def write_and_wait(self, now, metrics):
    write(self, now, metrics)
    while now == int(step) and not pathlib.Path(sent).exists():
        time.sleep(0.005)

RunLog.write = write_and_wait
sys.argv = ["train.py", *arguments]
run_verb(train.main)
"""


def stop_at(
    step: int, kind: signal.Signals, workdir: Path, *, devices: int = 1, **fields
) -> tuple[int, str]:
    """Runs train.py, sends a signal once `step` is logged; exit status and standard error.

    The run waits there until the signal has been sent: it is not over before, on any machine.
    """
    recipe, sent = f"--config=configs/{fields.pop('recipe')}.py", workdir.with_suffix(".sent")
    sent.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", PACED, str(step), str(sent),
         *command("train.py", recipe, f"--workdir={workdir}", **fields)[2:]],
        cwd=ROOT,
        env=environment(devices),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (workdir / "metrics.jsonl").exists() and max(metrics(workdir), default=0) >= step:
            os.kill(process.pid, kind)
            sent.touch()
            break
        time.sleep(0.005)
    _, errors = process.communicate(timeout=300)
    assert max(metrics(workdir)) < 40, "the run was over before the signal came"
    return process.returncode, errors.decode()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "input.txt")


@pytest.mark.full
@pytest.mark.parametrize("family", RECIPES)
def test_killed_and_stopped_on_the_way_a_run_ends_bit_equal(family, text, tmp_path):
    recipe = f"--config=configs/{RECIPES[family]}.py"
    fields = settings(text, model__dropout="0.1")
    run("train.py", recipe, f"--workdir={tmp_path / 'whole'}", **fields)

    # A slower pace, so that the signals meet the run where they should.
    parted = tmp_path / "parted"
    slow = fields | {"recipe": RECIPES[family], "checkpoint__every_steps": "5"}
    status, _ = stop_at(15, signal.SIGKILL, parted, **slow)
    assert status == -signal.SIGKILL
    status, errors = stop_at(30, signal.SIGTERM, parted, **slow)
    assert status == 75, errors
    assert "was left locked by process" in errors
    assert re.search(r"compiled the train step in .* \(from the cache\)", errors)
    stopped = finished_steps(parted / "checkpoints")[-1]
    assert 30 <= stopped < 40
    run("train.py", recipe, f"--workdir={parted}", **fields)

    whole, again = metrics(tmp_path / "whole"), metrics(parted)
    assert [m["batch_crc32"] for m in whole.values()] == [m["batch_crc32"] for m in again.values()]
    assert [m["loss"] for m in whole.values()] == [m["loss"] for m in again.values()]
    arrays, others = arrays_of(tmp_path / "whole", 40), arrays_of(parted, 40)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
