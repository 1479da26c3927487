"""Compares the speed of the whole train step with that of PyTorch, with the same model, parameters,
batches, threads and optimizer.

python benchmarks/train_step.py [ROW ...]

Needs the `bench` extra. The sides (`sides.py`) run alternately, in float32 on CPU; in its turn, a
side has all cores. A row has the milliseconds per step (median of the turns); the ratio of
Triform's throughput to that of PyTorch's eager or compiled step, whichever is faster (above 1,
Triform is faster); and the largest relative difference of the first losses.
"""

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import print_head, print_row
from benchmarks.sides import SIDES, measure

COMMON = {"dtype": "float32", "products": "onednn", "together": True}
ROWS = {
    "decoder_4x128": COMMON | {
        "kind": "gpt2", "width": 128, "depth": 4, "heads": 4, "length": 64, "batch": 12,
        "vocabulary": 67,
    },
    "decoder_6x384": COMMON | {
        "kind": "gpt2", "width": 384, "depth": 6, "heads": 6, "length": 256, "batch": 8,
        "vocabulary": 67,
    },
    "lstm_2x200": COMMON | {
        "kind": "lstm", "width": 200, "depth": 2, "length": 35, "batch": 20, "vocabulary": 10_000,
    },
    "lstm_2x650": COMMON | {
        "kind": "lstm", "width": 650, "depth": 2, "length": 35, "batch": 20, "vocabulary": 10_000,
    },
    "cnn_32_64": COMMON | {
        "kind": "cnn", "channels": (32, 64), "width": 128, "size": 28, "batch": 64, "classes": 10,
    },
}  # fmt: skip
TURNS, TURN_SECONDS, WARM_UP = 24, 1.0, 20
HEAD = ("row", "ours, ms", "eager, ms", "compiled, ms", "ours / best PyTorch", "losses differ by")


def cells(name: str) -> list[str]:
    """Measure the row `name` of `ROWS`; return the cells of its table row."""
    sides = measure(ROWS[name], SIDES, turns=TURNS, seconds=TURN_SECONDS, warm_up=WARM_UP)
    for side, alive in sides.items():
        if alive.failed:
            raise SystemExit(f"train_step.py: {side} of {name} failed: {alive.failed}")
    times = {side: 1e3 * alive.step_seconds for side, alive in sides.items()}
    ratio = min(times["eager"], times["compiled"]) / times["triform"]
    difference = np.max(np.abs(np.divide(sides["triform"].first, sides["eager"].first) - 1))
    figures = [f"{milliseconds:.1f}" for milliseconds in times.values()]
    return [f"`{name}`", *figures, f"{ratio:.2f}", f"{difference:.1e}"]


def main(names: list[str]) -> None:
    """Measure the rows and print the table."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    print_head(HEAD)
    for name in names or ROWS:
        print_row(cells(name))


if __name__ == "__main__":
    main(sys.argv[1:])
