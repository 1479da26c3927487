"""The rows of benchmarks/train_step.py at toy size: ours and PyTorch compute the same."""

import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.sides import measure

TOY = {
    "decoder_4x128": {"width": 32, "depth": 1, "heads": 2, "length": 16, "batch": 2},
    "lstm_2x200": {"width": 16, "depth": 2, "length": 8, "batch": 2, "vocabulary": 67},
    "cnn_32_64": {"channels": (4, 8), "width": 16, "size": 8, "batch": 4},
}


@pytest.mark.parametrize("name", TOY)
def test_both_sides_take_the_same_steps(name, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    row = train_step.ROWS[name] | TOY[name]
    sides = measure(row, ("triform", "eager"), turns=1, seconds=0.0, warm_up=6)
    assert {side: alive.failed for side, alive in sides.items()} == dict.fromkeys(sides)
    np.testing.assert_allclose(sides["triform"].first, sides["eager"].first, rtol=1e-4)
