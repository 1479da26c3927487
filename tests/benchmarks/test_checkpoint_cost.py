"""What a checkpoint costs is measured, at toy size."""

import re
import subprocess
import sys

from tests.end_to_end.verbs import ROOT


def test_every_part_of_a_checkpoint_is_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/checkpoint_cost.py", "--megabytes=1", "--repeats=1",
         f"--folder={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    for name in ("save", "written", "verify", "restore", "memory", "xxh3_128", "sha256"):
        assert re.search(rf"^ *{name} +[\d.e-]+ (s|MB) ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"verify / restore: [\d.]+", done.stdout)
    assert list(tmp_path.iterdir()) == []


def test_what_saving_costs_the_loop_is_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, "benchmarks/checkpoint_cost.py", "--loop=1", "--tokens=16", "--repeats=2",
         f"--folder={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    for name in ("step", "blocked", "extra"):
        assert re.search(rf"^ *{name} +-?[\d.e-]+ s ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"share +-?[\d.]+%  \(one save per 50 steps\)", done.stdout)
    assert list(tmp_path.iterdir()) == []
