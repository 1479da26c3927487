"""The whole command beside the Trainer's at toy size; the peer where it is installed."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import whole_command

PEERS = ("eager",) if all(map(find_spec, ("torch", "transformers", "accelerate"))) else ()
TOY = {
    "width": 16, "depth": 1, "heads": 2, "length": 16, "batch": 4, "vocabulary": 300, "steps": 4,
    "log": 1,
}  # fmt: skip


def test_the_sides_run_the_same_job(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    text = tmp_path / "text.txt"
    text.write_text("Twelve drummers drumming, eleven pipers piping. " * 40)
    runs = whole_command.measure(TOY, text, rounds=1, sides=("triform", *PEERS))
    assert [run["side"] for run in runs[-2:]] == ["triform", "triform"]
    assert len({run["parameters"] for run in runs}) == 1
    # Four small steps from random weights: all losses are near the logarithm of the vocabulary.
    assert [run["loss"] for run in runs] == pytest.approx([runs[-1]["loss"]] * len(runs), rel=0.05)
    found = whole_command.figures(runs)
    assert set(found["ratio"]) == (set(whole_command.KINDS) if PEERS else set())
    json.dumps(found)


def test_the_faster_peer_counts_for_each_kind():
    seconds = {"triform": (8, 4), "eager": (12, 12), "compiled": (40, 10)}
    runs = [
        {"side": side, "kind": kind, "seconds": float(value)}
        | {"parameters": 1000, "loss": 2.5, "loss_error": 0.01}
        for side, values in seconds.items()
        for kind, value in zip(whole_command.KINDS, values, strict=True)
    ]
    found = whole_command.figures(runs)
    assert found["ratio"] == {"cold": 1.5, "warm": 2.5}
    lines = whole_command.table("gpt2", found)
    assert lines[0] == "| `gpt2` | triform | 8.0 (8.0) | 4.0 (4.0) | 1,000 | 2.500 ± 0.010 |"
    assert lines[-1] == "| `gpt2` | ratio | **1.50** | **2.50** | | |"


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(whole_command.UsageError, match=r"ended with 2: train.py: error: .*nowhere"):
        whole_command.run("triform", TOY, Path("nowhere"), tmp_path / "run", tmp_path / "cache")
