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
