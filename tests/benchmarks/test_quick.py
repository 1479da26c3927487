"""The check of a change's speed, benchmarks/quick.py, at toy size."""

import dataclasses
import shutil

import pytest

from benchmarks import quick
from benchmarks.measuring import ROOT
from configs.errors import UsageError

SLOWER = """

_plain = stream


def stream(*arguments):
    import time

    for batch in _plain(*arguments):
        time.sleep(0.4)
        yield batch
"""
"""Added to `data/prefetch.py`: every batch takes 400 ms more, much on a busy machine too."""


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(quick, "SLICE_SECONDS", 0.02)
    loop = dataclasses.replace(quick.ROWS["loop"], count=8)
    monkeypatch.setitem(quick.ROWS, "loop", loop)


def scripted(*seconds: float):
    """Return a function that returns the given numbers, one after the other."""
    numbers = iter(seconds)
    return lambda: next(numbers)


def test_a_row_that_is_not_slower_is_measured_once():
    found = quick.compare({quick.BASE: scripted(1, 2, 1), quick.THIS: scripted(1.1, 2.2, 9)}, 3)
    assert found.ratio == pytest.approx(1.1) and not found.fails


def test_a_row_fails_only_if_more_turns_confirm_it():
    base = [1.0] * 8
    once = quick.compare({quick.BASE: scripted(*base), quick.THIS: scripted(2, 2, *base[2:])}, 2)
    assert once.ratio == 1 and not once.fails
    again = quick.compare({quick.BASE: scripted(*base), quick.THIS: scripted(*[1.2] * 8)}, 2)
    assert again.ratio == pytest.approx(1.2) and again.fails


def test_a_tree_with_a_slower_input_fails(tmp_path, capsys, monkeypatch):
    slow = shutil.copytree(
        ROOT, tmp_path / "slow", ignore=shutil.ignore_patterns(".*", "runs", "docs", "tests")
    )
    with (slow / "data" / "prefetch.py").open("a") as file:
        file.write(SLOWER)
    comparison = quick.Comparison({quick.BASE: ROOT, quick.THIS: slow}, tmp_path)
    found = dict(quick.lines(comparison, ["loop", "input"], turns=1))
    assert found.keys() == {"loop", "input"}
    assert all(one.fails and one.ratio > 2 for one in found.values())
    assert capsys.readouterr().out.count("too slow") == 2


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="without .git, no commit to compare with")
def test_the_last_commit_is_measured_beside_this_tree(capsys):
    quick.main(["--base=HEAD", "--row=cnn", "--row=start", "--turns=1"])
    out = capsys.readouterr().out
    assert out.startswith("base: ") and "| `cnn` | " in out and "| `start` | " in out


def test_a_setting_that_the_base_lacks_is_given_to_neither(tmp_path, monkeypatch):
    comparison = quick.Comparison({quick.BASE: ROOT, quick.THIS: ROOT}, tmp_path)
    row = quick.ROWS["cnn"]
    assert "--config.train.steps=10000000" in comparison.arguments(row)

    def known(tree, recipes):
        fields = {"train.steps", "model.width"} | ({"train.new"} if tree == ROOT else set())
        return dict.fromkeys(recipes, fields)

    monkeypatch.setattr(quick, "known_fields", known)
    older = quick.Comparison({quick.BASE: tmp_path, quick.THIS: ROOT}, tmp_path)
    row = dataclasses.replace(row, fields={"train.new": 1, "model.width": 3})
    assert older.arguments(row) == ["--config.train.steps=10000000", "--config.model.width=3"]


def test_a_commit_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no commit gone"):
        quick.unpack("gone", tmp_path / "tree")
