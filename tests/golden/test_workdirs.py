"""Workdirs that were made earlier evaluate to the same figures, and go on."""

import json
import math
import shutil

import pytest

import evaluate
import train
from tests.golden.workdirs import FIGURES, KEPT, ROOT, RUNS, WORKDIRS


@pytest.mark.parametrize("name", RUNS)
def test_a_workdir_evaluates_to_what_it_did_and_goes_on(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)  # paths of data are relative
    assert {path.name for path in (WORKDIRS / name).iterdir()} <= set(KEPT)
    assert evaluate.main([f"--workdir={WORKDIRS / name}"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    known = json.loads(FIGURES.read_text())[name]
    assert figures.pop("split") == known.pop("split")
    assert figures == pytest.approx(known, rel=1e-4)

    recipe, fields = RUNS[name]
    workdir = shutil.copytree(WORKDIRS / name, tmp_path / "run")
    overrides = [
        f"--config.{name}={text}" for name, text in (fields | {"train.steps": "13"}).items()
    ]
    assert train.main([f"--config=configs/{recipe}.py", f"--workdir={workdir}", *overrides]) == 0
    assert "going on from checkpoint 12" in capsys.readouterr().err
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-2])
    assert last["step"] == 13 and math.isfinite(last["loss"])
