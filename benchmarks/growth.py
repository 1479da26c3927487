"""Measures how time and memory grow: with length, depth, width, batch and vocabulary of a train
step, with the number of records, and with the size of a checkpoint.

python benchmarks/growth.py [--study=NAME ...] [--quick] [--plots=docs/performance]

Each point is measured in its own process, on one CPU device (Linux). A table has the points; a
second one has the exponent p of each cost, as if it were proportional to the size to the power p:
by least squares over all points in log space, and between the last two points, where constant
costs weigh least; and what it should be. `--plots` writes a plot of each study into a folder.
`--quick` has few and small points.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.growth_costs import Costs, checkpoint_cost, records_cost, step_cost
from benchmarks.growth_plots import Curve, Panel, draw
from benchmarks.measuring import in_own_process, print_head, print_row
from configs.reading.command_line import Flag, parse_command_line, run_verb

MIB = 2**20


@dataclass(frozen=True)
class Column:
    """A cost in the tables: its title with its unit, in which it is `scale` times as large."""

    title: str
    scale: float
    digits: int = 1


STEP = {
    "step": Column("a step, ms", 1e3),
    "temporaries": Column("temporaries, MiB", 1 / MIB),
    "state": Column("state, MiB", 1 / MIB),
    "peak": Column("peak of the process, MiB", 1 / MIB, 0),
    "compile": Column("compilation, s", 1),
}
RECORDS = {
    "start": Column("start to first step, s", 1),
    "batch": Column("a batch, µs", 1e6, 0),
    "batch_on_disk": Column("a batch from the disk, µs", 1e6, 0),
    "preparation": Column("preparation, s", 1),
    "bytes": Column("file, MB", 1e-6),
    "memory": Column("memory of the reader, MiB", 1 / MIB, 0),
}
CHECKPOINT = {
    "bytes": Column("files, MB", 1e-6),
    "save": Column("save: pause of training, s", 1, 3),
    "written": Column("save: until written, s", 1, 3),
    "verify": Column("verification, s", 1, 3),
    "restore": Column("restoration, s", 1, 3),
}


@dataclass(frozen=True)
class Line:
    """What is measured at every size of a study.

    measure(size): returns the costs; it is called in a new process.
    exponents: for each cost that is fitted, the exponent that it should have, as text.
    """

    measure: Callable[[int], Costs]
    exponents: Mapping[str, str]


@dataclass(frozen=True)
class Study:
    """A table of costs by size.

    size: the name of the size. at: the cost that takes its place in fits and plots.
    panels: the costs in each panel of the plot, by the panel's title. A study of several lines has
        one cost in a panel.
    """

    size: str
    sizes: Sequence[int]
    quick: Sequence[int]
    columns: Mapping[str, Column]
    lines: Mapping[str, Line]
    panels: Mapping[str, Sequence[str]]
    at: str | None = None


def steps(
    exponents: Mapping[str, str], size: str, fields: Mapping[str, Any], *, vocabulary: int = 256
) -> Line:
    """Return a line of train steps.

    size: the field that is the size; "vocabulary" is the size of the vocabulary.
    fields: the other fields, by their names.
    """
    return Line(partial(sized_step, size, fields, vocabulary), exponents)


def sized_step(name: str, fields: Mapping[str, Any], vocabulary: int, size: int) -> Costs:
    """Return the costs of the step in which the field `name` is `size`."""
    if name == "vocabulary":
        return step_cost(fields, size)
    return step_cost({**fields, name: size}, vocabulary)


LENGTH = "data.sequence_length"
LONG = {"data.global_batch_size": 1, "model.width": 64, "model.depth": 1}
ONE_HEAD = LONG | {"model.num_heads": 1}
SHORT = {"data.global_batch_size": 8, LENGTH: 64}
LINEAR = {"step": "1", "temporaries": "1"}
IN_STEPS = {"time of a step": ("step",), "memory of a step": ("temporaries",)}

STUDIES = {
    "length": Study(
        "tokens",
        (1024, 2048, 4096, 8192, 16384, 32768),
        (512, 1024),
        STEP,
        {
            "attention": steps({"step": "2", "temporaries": "2"}, LENGTH, ONE_HEAD),
            "window of 256": steps(LINEAR, LENGTH, ONE_HEAD | {"model.attention_window": 256}),
            "convolution": steps(LINEAR, LENGTH, LONG | {"model.pattern": "C"}),
            "RG-LRU": steps(
                LINEAR, LENGTH, LONG | {"model.pattern": "R", "model.recurrence": "rg_lru"}
            ),
        },
        IN_STEPS,
    ),
    "depth": Study(
        "blocks",
        (1, 2, 4, 8, 16, 32),
        (1, 2),
        STEP,
        {
            "unrolled": steps(
                LINEAR | {"state": "1", "compile": "1"}, "model.depth", SHORT | {"model.width": 64}
            ),
            "scanned": steps(
                LINEAR | {"state": "1", "compile": "0"},
                "model.depth",
                SHORT | {"model.width": 64, "model.scan_layers": "true"},
            ),
        },
        IN_STEPS | {"compilation": ("compile",)},
    ),
    "width": Study(
        "width",
        (32, 64, 128, 256, 512, 1024),
        (16, 32),
        STEP,
        {
            "decoder": steps(
                {"step": "1 to 2", "temporaries": "1 to 2", "state": "1 to 2"},
                "model.width",
                SHORT | {"model.depth": 2},
            )
        },
        {"time of a step": ("step",), "memory": ("temporaries", "state")},
    ),
    "batch": Study(
        "rows",
        (1, 2, 4, 8, 16, 32, 64, 128, 256),
        (1, 2),
        STEP,
        {
            "decoder": steps(
                LINEAR,
                "data.global_batch_size",
                {"model.depth": 2, "model.width": 128, LENGTH: 64},
            )
        },
        IN_STEPS,
    ),
    "vocabulary": Study(
        "tokens in the vocabulary",
        (512, 2048, 8192, 32768, 131072),
        (128, 256),
        STEP,
        {
            "decoder": steps(
                LINEAR | {"state": "1"},
                "vocabulary",
                SHORT | {"model.depth": 1, "model.width": 64},
            )
        },
        {"time of a step": ("step",), "memory": ("temporaries", "state")},
    ),
    "records": Study(
        "records",
        (10**3, 10**4, 10**5, 10**6, 10**7),
        (10**2, 10**3),
        RECORDS,
        {
            "windows": Line(
                records_cost,
                {
                    "start": "0",
                    "batch": "0",
                    "batch_on_disk": "0",
                    "preparation": "1",
                    "bytes": "1",
                },
            )
        },
        {
            "start": ("start",),
            "a batch": ("batch", "batch_on_disk"),
            "preparation": ("preparation",),
        },
    ),
    "checkpoint": Study(
        "width",
        (64, 128, 256, 512, 1024, 2048),
        (16, 32),
        CHECKPOINT,
        {
            "decoder": Line(
                checkpoint_cost, dict.fromkeys(("save", "written", "verify", "restore"), "1")
            )
        },
        {"seconds": ("save", "written", "verify", "restore")},
        at="bytes",
    ),
}

FLAGS = (
    Flag("study", "studies to run (default: all)", repeatable=True, choices=tuple(STUDIES)),
    Flag("quick", "few and small points", switch=True),
    Flag("plots", "a folder for the plots"),
)


@dataclass
class Measured:
    """The points of a line: the sizes, and each cost at each size."""

    sizes: list[float] = field(default_factory=list)
    costs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, size: float, costs: Costs) -> None:
        """Append a point."""
        self.sizes.append(size)
        for name, value in costs.items():
            self.costs.setdefault(name, []).append(value)


def measure(study: Study, sizes: Sequence[int]) -> dict[str, Measured]:
    """Measure the points of a study; print a table of them. Return the points of each line."""
    found = {name: Measured() for name in study.lines}
    print_head((study.size, "", *(column.title for column in study.columns.values())))
    for size in sizes:
        for name, line in study.lines.items():
            costs = in_own_process(line.measure, size)
            found[name].add(costs[study.at] if study.at else size, costs)
            cells = [
                f"{costs[cost] * column.scale:,.{column.digits}f}"
                for cost, column in study.columns.items()
            ]
            print_row((f"{size:,}", name, *cells))
    return found


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return p of the power law a · size^p that is fitted to the costs by least squares in log
    space."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def print_exponents(study: Study, found: Mapping[str, Measured]) -> None:
    """Print the table of exponents."""
    print()
    print_head(("", "cost", "exponent", "at the end", "should be"))
    for name, line in study.lines.items():
        sizes = found[name].sizes
        for cost, expected in line.exponents.items():
            values = found[name].costs[cost]
            fits = (exponent(sizes, values), exponent(sizes[-2:], values[-2:]))
            print_row((name, study.columns[cost].title, *(f"{p:.2f}" for p in fits), expected))
    print()


def plot(study: Study, found: Mapping[str, Measured], path: Path) -> None:
    """Draw the points of a study."""
    axis = study.columns[study.at] if study.at else Column(study.size, 1)
    panels = []
    for title, costs in study.panels.items():
        curves = [
            Curve(
                study.columns[cost].title if len(found) == 1 else name,
                [size * axis.scale for size in points.sizes],
                [value * study.columns[cost].scale for value in points.costs[cost]],
            )
            for name, points in found.items()
            for cost in costs
        ]
        unit = study.columns[costs[0]].title.rpartition(", ")[2]
        panels.append(Panel(title, axis.title, unit, curves))
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(panels, path)


def main(argv: Sequence[str]) -> None:
    """Run the studies."""
    arguments = parse_command_line(argv, FLAGS)
    for name in arguments.study or STUDIES:
        study = STUDIES[name]
        print(f"## {name}\n", flush=True)
        found = measure(study, study.quick if arguments.quick else study.sizes)
        print_exponents(study, found)
        if arguments.plots:
            plot(study, found, Path(arguments.plots) / f"{name}.svg")


if __name__ == "__main__":
    run_verb(main)
