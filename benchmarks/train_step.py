"""Compares the speed of the whole train step with that of PyTorch, with the same model, parameters,
batches, threads and optimizer, on CPU.

python benchmarks/train_step.py [ROW ...] [--column=NAME ...] [--turns=24] [--json=FILE]

Needs the `bench` extra. Each row is measured in three pairs, the columns:

- `float32`: both sides multiply in float32, Triform by oneDNN, which PyTorch has too;
- `bfloat16`: both sides multiply in bfloat16, Triform by `precision.products`, PyTorch by autocast;
- `recipe`, which is unequal: each side as it comes. Triform multiplies as the row's recipe says,
  PyTorch in float32, eagerly. Both have the recipe's dropout; in the other columns, nothing is
  dropped.

The sides of a pair (`sides.py`) run alternately; in its turn, a side has all cores. A line of the
table has the milliseconds per step (median of the turns), and the ratio of Triform's throughput to
that of PyTorch's eager or compiled step, whichever is faster (above 1, Triform is faster). Of the
first losses, it has the largest relative difference of the two sides; in bfloat16 also that of each
side from its own in float32, if this is measured too. FILE gets all of it, with each turn.
"""

import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROOT, print_head, print_row
from benchmarks.rows import Row
from benchmarks.sides import SIDES, measure
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.recipes import load_config

COMMON = {"dtype": "float32", "together": True}
DECODER = COMMON | {"kind": "gpt2", "vocabulary": 67, "recipe": "shakespeare_char"}
LSTM = COMMON | {
    "kind": "lstm", "length": 35, "batch": 20, "vocabulary": 10_000, "recipe": "text_lstm",
}  # fmt: skip
ROWS: dict[str, Row] = {
    "decoder_4x128": DECODER | {"width": 128, "depth": 4, "heads": 4, "length": 64, "batch": 12},
    "decoder_6x384": DECODER | {"width": 384, "depth": 6, "heads": 6, "length": 256, "batch": 8},
    "lstm_2x200": LSTM | {"width": 200, "depth": 2},
    "lstm_2x650": LSTM | {"width": 650, "depth": 2},
    "cnn_32_64": COMMON | {
        "kind": "cnn", "channels": (32, 64), "width": 128, "size": 28, "colours": 1, "batch": 64,
        "classes": 10, "recipe": "digits_cnn",
    },
    "resnet18_32": COMMON | {
        "kind": "resnet", "width": 64, "depth": 18, "size": 32, "colours": 3, "batch": 64,
        "classes": 10, "recipe": "image_folder_resnet",
    },
    "vit_ti16_224": COMMON | {
        "kind": "vit", "width": 192, "depth": 12, "heads": 3, "patch": 16, "size": 224,
        "colours": 3, "batch": 8, "classes": 1000, "recipe": "imagenet_vit_s16",
    },
    "translation_3x192": COMMON | {
        "kind": "translation", "width": 192, "depth": 3, "heads": 4, "hidden": 384,
        "vocabulary": 4000, "source_length": 17, "target_length": 18, "shortest": 0.5,
        "batch": 128, "recipe": "translation_transformer",
    },
    "conformer_3x96": COMMON | {
        "kind": "speech", "width": 96, "depth": 3, "heads": 4, "kernel": 15, "mels": 40,
        "subsampling_channels": 16, "vocabulary": 17, "frames": 71, "labels": 5, "shortest": 0.3,
        "batch": 32, "recipe": "speech_conformer_ctc",
    },
}  # fmt: skip
"""The rows (`rows.py`). `recipe`: the recipe whose products and dropout the column `recipe` has.
`translation_3x192` has the shape of half of that recipe's batches on Multi30k, `conformer_3x96`
that of 94 % on the Free Spoken Digit Dataset. A quarter of the texts is padding, as there, and a
third of the recordings (there, 44 %)."""

COLUMNS = {
    "float32": {"products": "float32", "autocast": "float32", "matrix_products": "onednn"},
    "bfloat16": {"products": "bfloat16", "autocast": "bfloat16", "matrix_products": "auto"},
    "recipe": {"autocast": "float32"},
}
"""What a column changes in a row."""

UNEQUAL = "recipe"
FLAGS = (
    Flag("column", "of the three (default: all)", repeatable=True, choices=tuple(COLUMNS)),
    Flag("turns", "of each side", type=int, default=24, minimum=1),
    Flag("json", "a file for all that was measured"),
)
TURN_SECONDS, WARM_UP = 1.0, 20
HEAD = (
    "row", "column", "ours, ms", "eager, ms", "compiled, ms", "ours / best PyTorch",
    "losses differ by", "from float32: ours, PyTorch",
)  # fmt: skip


def as_recipe(row: Row) -> dict[str, Any]:
    """Return what the row's recipe sets of the products and of dropout."""
    config = load_config(ROOT / f"configs/{row['recipe']}.py", inputs=False)
    return {
        "dtype": config.precision.compute_dtype,
        "products": config.precision.products,
        "matrix_products": config.train.matrix_products,
        "dropout": config.model.dropout,
    }


def measured(row: Row, column: str, *, turns: int) -> dict[str, Any]:
    """Measure a pair. Return the seconds of each turn, the first losses and the metadata of each
    side, and the ratio."""
    equal = column != UNEQUAL
    row = row | COLUMNS[column] | ({} if equal else as_recipe(row))
    names = SIDES if equal else SIDES[:2]
    sides = measure(row, names, turns=turns, seconds=TURN_SECONDS, warm_up=WARM_UP)
    for name, side in sides.items():
        if side.failed:
            raise UsageError(f"{name} failed in column {column}: {side.failed}")
    seconds = {name: side.step_seconds for name, side in sides.items()}
    best = min(seconds[name] for name in names[1:])
    return {
        "settings": row,
        "milliseconds": {name: 1e3 * each for name, each in seconds.items()},
        "turns": {name: side.seconds for name, side in sides.items()},
        "first_losses": {name: side.first for name, side in sides.items()},
        "metadata": {name: dict(side.facts) for name, side in sides.items()},
        "ratio": best / seconds["triform"],
    }


def difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """Return the largest relative difference of two runs' losses."""
    return float(np.max(np.abs(np.divide(losses, others) - 1)))


def cells(name: str, column: str, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line of the table. found: what was measured of the row so far, by column."""
    times, first = found[column]["milliseconds"], found[column]["first_losses"]
    shown = [f"{times[side]:.1f}" if side in times else "" for side in SIDES]
    apart = "" if column == UNEQUAL else f"{difference(first['triform'], first['eager']):.1e}"
    rounded = ""
    if column == "bfloat16" and "float32" in found:
        exact = found["float32"]["first_losses"]
        each = (difference(first[side], exact[side]) for side in SIDES[:2])
        rounded = ", ".join(f"{one:.1e}" for one in each)
    label = f"{column} (unequal)" if column == UNEQUAL else column
    return [f"`{name}`", label, *shown, f"{found[column]['ratio']:.2f}", apart, rounded]


def main(argv: list[str]) -> None:
    """Measure the rows, and print each line of the table when it is finished."""
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), argv))
    arguments = parse_command_line(argv[len(names) :], FLAGS)
    if unknown := [name for name in names if name not in ROWS]:
        raise UsageError(f"there is no row {unknown[0]}: choose from {', '.join(ROWS)}")
    os.environ["JAX_PLATFORMS"] = "cpu"
    found: dict[str, dict[str, Any]] = {}
    print_head(HEAD)
    for name in names or ROWS:
        found[name] = {}
        for column in arguments.column or COLUMNS:
            found[name][column] = measured(ROWS[name], column, turns=arguments.turns)
            print_row(cells(name, column, found[name]))
            if arguments.json is not None:
                Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_verb(main)
