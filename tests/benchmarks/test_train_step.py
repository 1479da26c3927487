"""Rows of benchmarks/train_step.py at toy size: Triform and PyTorch compute the same."""

import json

import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.sides import measure
from configs.errors import UsageError

pytest.importorskip("torch")

TOY = {
    "decoder_4x128": {"width": 32, "depth": 2, "heads": 2, "length": 16, "batch": 2},
    "lstm_2x200": {"width": 16, "depth": 2, "length": 8, "batch": 2, "vocabulary": 67},
    "cnn_32_64": {"channels": (4, 8), "width": 16, "size": 8, "batch": 4},
    "resnet18_32": {"width": 4, "size": 16, "batch": 4},
    "vit_ti16_224": {
        "width": 24, "depth": 2, "patch": 4, "size": 16, "batch": 4, "classes": 10,
        "learning_rate": 1e-2,
    },
    "translation_3x192": {
        "width": 32, "depth": 2, "hidden": 24, "vocabulary": 67, "source_length": 9,
        "target_length": 7, "batch": 4,
    },
    "conformer_3x96": {
        "width": 32, "depth": 2, "kernel": 5, "mels": 10, "frames": 64, "batch": 4,
    },
}  # fmt: skip
"""Sizes for a row of each kind. Where logits start at 0, a small learning rate would hide what the
rest of the model computes."""


def toy(name: str, column: str) -> dict:
    return train_step.ROWS[name] | TOY[name] | train_step.COLUMNS[column]


def first_losses(row: dict, *names: str) -> list[np.ndarray]:
    sides = measure(row, names, turns=1, seconds=0.0, warm_up=6)
    peers = [side for name, side in sides.items() if name != "triform"]
    if any("could not create a primitive" in (side.failed or "") for side in peers):
        pytest.skip("PyTorch has no layer of this kind in bfloat16 on this CPU")
    assert {side: alive.failed for side, alive in sides.items()} == dict.fromkeys(sides)
    return [np.array(side.first) for side in sides.values()]


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def test_each_kind_of_row_has_a_toy():
    kinds = {row["kind"] for row in train_step.ROWS.values()}
    assert {train_step.ROWS[name]["kind"] for name in TOY} == kinds


@pytest.mark.parametrize("name", TOY)
def test_both_sides_take_the_same_steps(name):
    ours, theirs = first_losses(toy(name, "float32"), "triform", "eager")
    assert len(set(ours)) > 1
    np.testing.assert_allclose(ours[:3], theirs[:3], rtol=1e-5)
    # AdamW's first updates have the same size however small a gradient is: rounding adds up.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.parametrize("name", TOY)
def test_products_in_bfloat16_change_little(name):
    (exact,) = first_losses(toy(name, "float32"), "triform")
    ours, theirs = first_losses(toy(name, "bfloat16"), "triform", "eager")
    assert (ours != exact).any()
    np.testing.assert_allclose(ours, exact, rtol=1e-2)
    np.testing.assert_allclose(theirs, exact, rtol=2e-2)


def test_pairs_are_printed_and_kept(tmp_path, capsys, monkeypatch):
    name, file = "decoder_4x128", tmp_path / "found.json"
    monkeypatch.setitem(train_step.ROWS, name, train_step.ROWS[name] | TOY[name])
    monkeypatch.setattr(train_step, "TURN_SECONDS", 0.0)
    columns = ["--column=float32", "--column=recipe"]
    train_step.main([name, *columns, "--turns=2", f"--json={file}"])
    head, _, *lines = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("|")
    )
    float32, recipe = (dict(zip(head, line, strict=True)) for line in lines)
    assert float32["row"] == recipe["row"] == f"`{name}`"
    assert float(float32["losses differ by"]) < 1e-5 and float32["compiled, ms"]
    assert recipe["column"] == "recipe (unequal)" and not recipe["compiled, ms"]
    found = json.loads(file.read_text())[name]
    assert {side: len(turns) for side, turns in found["recipe"]["turns"].items()} == {
        "triform": 2, "eager": 2,
    }  # fmt: skip
    ours, best = float(recipe["ours, ms"]), float(recipe["eager, ms"])
    assert found["recipe"]["ratio"] == pytest.approx(best / ours, rel=0.2)


def test_an_unknown_row_is_an_error():
    with pytest.raises(UsageError, match="no row decoder"):
        train_step.main(["decoder"])
