"""Weights & Biases: refused in one line without the package; one run for all sittings, offline."""

import subprocess
import sys
import time
from pathlib import Path

from configs.reading.recipes import load_config
from reporting.wandb_log import NAME, WandbLog

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
from importlib import metadata
version = metadata.version
def without_wandb(name):
    if name == "wandb":
        raise metadata.PackageNotFoundError(name)
    return version(name)
metadata.version = without_wandb
import train
from configs.reading.command_line import run_verb
run_verb(train.main)
"""


def test_without_the_package_it_is_one_line_and_nothing_is_touched(tmp_path):
    command = [sys.executable, "-c", WITHOUT, "--config=configs/digits_cnn.py",
               f"--workdir={tmp_path / 'run'}", "--config.train.wandb_project=mine"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "pip install -e '.[wandb]'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_offline_a_run_that_goes_on_is_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = load_config("configs/digits_cnn.py", {"train.wandb_project": "mine"})
    told = []
    for step in (1, 2):
        log = WandbLog(config, tmp_path, told.append)
        log.write(step, {"loss": 1.0 / step})
        log.close()
    assert all(line.startswith("Weights & Biases: offline, in ") for line in told)
    name = (tmp_path / NAME).read_text()
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert files and {file.name for file in files} == {f"run-{name}.wandb"}
    until = time.monotonic() + 300  # a process of its own writes them
    while not all(b"loss" in file.read_bytes() for file in files) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(b"loss" in file.read_bytes() for file in files)
