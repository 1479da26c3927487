"""Rows of `bench_gpu.py` at toy size, on CPU; beside PyTorch where that is installed."""

import json
from importlib.util import find_spec

import pytest

from benchmarks import bench_gpu
from benchmarks.findings import Findings

PEERS = ("eager",) if find_spec("torch") else ()


@pytest.mark.parametrize("name", bench_gpu.TOY_ROWS)
def test_a_row_measures_each_side(name):
    row = bench_gpu.TOY_ROWS[name]
    sides = bench_gpu.measure(row, ("triform", *PEERS), turns=1, seconds=0.0)
    assert {side: alive.failed for side, alive in sides.items()} == dict.fromkeys(sides)
    found = bench_gpu.figures(row, sides)
    assert all(found[f"{side}_tokens_per_second"] > 0 for side in sides)
    for one, other in found.get("first_results", ()):
        assert one == pytest.approx(other, rel=1e-5)
    json.dumps(found)


def test_shares_are_told_where_the_peak_is_known():
    class Alive:
        failed, step_seconds, first, peak_bytes = None, 0.1, [], 3 << 30
        facts = {"parameters": 1e9, "flops_per_token": 6e9, "peak_flops": 1e15}  # noqa: RUF012

    found = bench_gpu.figures(bench_gpu.ROWS["gpt2_124m"], {"triform": Alive()})
    assert found["triform_mfu"] == pytest.approx(16 * 1024 / 0.1 * 6e9 / 1e15, rel=1e-2)
    assert found["ratio"] is None
    (line,) = bench_gpu.summary(found)
    assert line == f"triform 163,840 tokens/s, MFU {found['triform_mfu']:.1%}, 3.00 GiB"
    Alive.facts["peak_bandwidth"] = 3.35e12
    row = bench_gpu.ROWS["decode_1b_batch_32"]
    found = bench_gpu.figures(row, {"triform": Alive()})
    read = 2e9 + 2 * 2 * 16 * 32 * 1024 * 8 * 64
    assert found["triform_floor_share"] == pytest.approx(read / 3.35e12 / (0.1 / 128), rel=1e-2)


def test_a_side_that_fails_says_why():
    row = bench_gpu.TOY_ROWS["gpt2_124m"] | {"batch": 0}
    found = bench_gpu.figures(row, bench_gpu.measure(row, ("triform",), turns=1, seconds=0.0))
    assert "data.global_batch_size" in found["triform_failed"]
    assert next(bench_gpu.summary(found)).startswith("triform failed: UsageError")


def test_sides_that_compute_something_else_fail_the_row(tmp_path, monkeypatch):
    def apart(row, sides, **how):
        class Alive:
            failed, step_seconds, facts, peak_bytes = None, 0.1, {}, None

            def __init__(self, first):
                self.first = first

        return {"triform": Alive([2.0, 1.9]), "eager": Alive([2.0, 1.8])}

    monkeypatch.setattr(bench_gpu, "measure", apart)
    part = Findings(tmp_path / "found.json", tmp_path, toy=True, torch=True)
    bench_gpu.measured(part, "gpt2_124m")
    (check,) = part.checks.values()
    assert not check["passed"] and check["found"].startswith("losses 1.9 and 1.8; triform ")
