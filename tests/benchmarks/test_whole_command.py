"""The whole command beside the Trainer's at toy size; the Trainer where it is installed."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import whole_command
from configs.errors import UsageError

TRAINER = all(map(find_spec, ("torch", "transformers", "accelerate")))
TOY = {
    "width": 16, "depth": 1, "heads": 2, "length": 16, "batch": 4, "vocabulary": 300, "steps": 4,
    "log": 1,
}  # fmt: skip


@pytest.mark.parametrize("group", ["float32", "bfloat16"])
def test_the_sides_run_the_same_job(tmp_path, monkeypatch, group):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    text = tmp_path / "text.txt"
    text.write_text("Twelve drummers drumming, eleven pipers piping. " * 40)
    ending = "" if group == "float32" else "_bfloat16"
    sides = [f"triform{ending}", *([f"eager{ending}"] if TRAINER else [])]
    runs = whole_command.measure(TOY, text, rounds=1, sides=sides)
    assert [run["side"] for run in runs[-2:]] == sides[:1] * 2
    assert len({run["parameters"] for run in runs}) == 1
    # Four small steps from random weights: all losses are near the logarithm of the vocabulary.
    assert [run["loss"] for run in runs] == pytest.approx([runs[-1]["loss"]] * len(runs), rel=0.05)
    found = whole_command.figures(runs)
    assert set(found["ratios"]) == ({group} if TRAINER else set())
    json.dumps(found)


def run(side: str, kind: str, seconds: float) -> whole_command.Run:
    outcome = {"parameters": 1000, "loss": 2.5, "loss_error": 0.01}
    return {"side": side, "kind": kind, "seconds": seconds, **outcome}


def test_ours_is_compared_with_the_faster_trainer_of_its_group_for_each_kind():
    seconds = {
        "triform": (8.0, 4.0), "eager": (12.0, 12.0), "compiled": (40.0, 10.0),
        "triform_bfloat16": (6.0, 3.0), "eager_bfloat16": (3.0, 6.0),
    }  # fmt: skip
    runs = [
        run(side, kind, value)
        for side, values in seconds.items()
        for kind, value in zip(whole_command.KINDS, values, strict=True)
    ]
    found = whole_command.figures(runs)
    assert found["ratios"] == {
        "float32": {"cold": 1.5, "warm": 2.5},
        "bfloat16": {"cold": 0.5, "warm": 2.0},
    }
    lines = list(whole_command.table("gpt2", found))
    assert lines[0] == ["`gpt2`", "triform", "8.0 (8.0)", "4.0 (4.0)", "1,000", "2.500 ± 0.010"]
    assert lines[-2] == ["`gpt2`", "ratio, float32", "**1.50**", "**2.50**", "", ""]


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(UsageError, match=r"ended with 2: train.py: error: .*nowhere"):
        paths = (tmp_path / name for name in ("nowhere", "run", "cache"))
        whole_command.time_command("triform", TOY, *paths)


def test_a_trainer_that_is_slower_cold_and_warm_is_left_out_after_the_first_round(monkeypatch):
    seconds = {"triform": 1.0, "eager": 2.0, "compiled": 3.0}
    ran: list[str] = []

    def time_command(side: str, row, text: Path, workdir: Path, cache: Path) -> float:
        ran.append(side)
        return seconds[side]

    sides = {
        name: whole_command.Side("float32", side.command, lambda workdir: {}, side.is_ours)
        for name, side in whole_command.SIDES.items()
        if name in seconds
    }
    monkeypatch.setattr(whole_command, "SIDES", sides)
    monkeypatch.setattr(whole_command, "time_command", time_command)
    whole_command.measure(TOY, Path("text"), rounds=2, sides=tuple(seconds))
    assert ran == ["compiled"] * 2 + ["eager"] * 2 + ["triform"] * 4 + ["eager"] * 2
