"""The benchmarks of the loop and of the input, at toy size: every cell of their tables is there."""

import pytest

from benchmarks import input as input_benchmark
from benchmarks import loop


@pytest.fixture
def small(cache_dir) -> list[str]:
    fields = {"model.width": 32, "data.global_batch_size": 8, "mesh.data": 1}
    return [f"--config.{k}={v}" for k, v in (fields | {"data.cache_dir": cache_dir}).items()]


def table(capsys) -> list[dict[str, str]]:
    head, _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    )
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_the_loop_is_measured_beside_its_step(capsys, small):
    every = "--config.checkpoint.every_steps=40"
    loop.main(["--recipe=digits_cnn", "--rounds=2", every, *small])
    (row,) = table(capsys)
    assert row["recipe"] == "`digits_cnn`" and float(row["bare step, ms"]) > 0
    assert float(row["a checkpoint, ms"]) and row["overhead"].endswith("%")


def test_workers_are_measured_in_turns(capsys, small):
    rows = ["--row=pictures", "--row=windows"]
    input_benchmark.main([*rows, "--workers=0,1", "--rounds=1", "--seconds=0.02", *small])
    lines = table(capsys)
    names = [(line["row"], line["workers"]) for line in lines]
    assert names == [(row, n) for row in ("`pictures`", "`windows`") for n in "01"]
    for line in lines:
        assert float(line["records/s"].replace(",", "")) > 0
        assert bool(line["tokens/s"]) == (line["row"] == "`windows`")
