"""The benchmark of random kills, with few of them."""

from benchmarks import random_kills


def test_a_run_that_is_killed_now_and_then_is_equal_to_one_that_is_not(capsys):
    assert random_kills.main(["--kills=3"]) == 0
    *kills, last = capsys.readouterr().out.splitlines()
    assert len(kills) == 3
    assert last.startswith("3 kills, ") and last.endswith("steps: all equal")
