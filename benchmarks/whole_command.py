"""Compares the whole command with Hugging Face's Trainer: from a text file to a trained GPT-2 of
random weights, its log and one checkpoint, in seconds from the command to its exit.

python benchmarks/whole_command.py [--text=input.txt] [--rounds=3] [--row=ROW ...]
    [--side=SIDE ...] [--out=FILE]

Needs the `bench` extra. Both have the same text and kind of tokenizer, shape, batch, steps, AdamW,
clipping, schedule and intervals, no dropout, no validation, and all cores; each run has a new
folder. Cold: there is no cache of any kind. Warm: there are those that the cold run before it left
(ours: tokens and compiled programs; theirs: tokens, and what `torch.compile` keeps).

The sides run alternately, in two groups: float32, and bfloat16 (ours: `precision.products`; theirs:
`bf16=True`, which is autocast). In a group, the Trainer counts with the faster of eager and
compiled; one that is the slower both cold and warm is left out after the first round. A ratio is
above 1 where ours is faster. What differs: ours writes a report, and TensorBoard's files; its log
has the loss of a batch, theirs the mean of those since the line before; its warm-up begins with the
first step of it, theirs with a learning rate of zero.

The last line of standard output, and FILE, is one JSON object.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROOT, overrides, print_head, print_row, start_verb
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb

ROWS: dict[str, dict[str, Any]] = {
    "gpt2_4x128": {
        "width": 128, "depth": 4, "heads": 4, "length": 64, "batch": 12, "vocabulary": 0,
        "steps": 300, "log": 10,
    },
    "gpt2_4x256": {
        "width": 256, "depth": 4, "heads": 4, "length": 128, "batch": 8, "vocabulary": 4096,
        "steps": 300, "log": 10,
    },
}  # fmt: skip
"""Shapes and lengths of the runs; vocabulary 0: the characters of the text."""

OPTIMIZER = {"learning_rate": 1e-3, "weight_decay": 0.1, "beta2": 0.99, "warmup": 30}
KINDS = ("cold", "warm")
LAST_LOSSES = 10
HEAD = ("row", "side", "cold, s", "warm, s", "parameters", "last losses")

Row = Mapping[str, Any]
Run = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the commands that are compared.

    group: "float32" or "bfloat16".
    command(row, text, workdir, cache): returns the program and its arguments.
    outcome(workdir): returns `parameters`, `loss` and `loss_error` of a finished run.
    """

    group: str
    command: Callable[[Row, Path, Path, Path], list[str]]
    outcome: Callable[[Path], dict[str, Any]]
    is_ours: bool


def main(argv: Sequence[str]) -> None:
    """Measure the rows and print the tables."""
    arguments = parse_command_line(argv, FLAGS)
    text = Path(arguments.text).absolute()
    print_head(HEAD)
    found = {}
    for name in arguments.row or ROWS:
        runs = measure(ROWS[name], text, arguments.rounds, arguments.side or tuple(SIDES))
        found[name] = figures(runs)
        for cells in table(name, found[name]):
            print_row(cells)
    line = json.dumps(found)
    if arguments.out:
        Path(arguments.out).write_text(line + "\n")
    print(line)


def measure(row: Row, text: Path, rounds: int, sides: Sequence[str]) -> list[Run]:
    """Return all runs of a row, each with its `side`, `kind`, `seconds` and outcome."""
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for side in sides if turn % 2 else sides[::-1]:
                home = Path(folder) / f"{turn}-{side}"
                for kind in KINDS:
                    seconds = time_command(side, row, text, home / kind, home / "cache")
                    outcome = SIDES[side].outcome(home / kind)
                    runs.append({"side": side, "kind": kind, "seconds": seconds, **outcome})
            if turn == 0:
                kept = fastest(runs)
                sides = [side for side in sides if SIDES[side].is_ours or side in kept]
    return runs


def time_command(side: str, row: Row, text: Path, workdir: Path, cache: Path) -> float:
    """Return the seconds from the command to its exit. Raises UsageError if it fails."""
    verb, *arguments = SIDES[side].command(row, text, workdir, cache)
    environment = {
        "JAX_PLATFORMS": "cpu",
        "TRIFORM_CACHE": cache,
        "TORCHINDUCTOR_CACHE_DIR": cache / "inductor",
    }
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    began = time.perf_counter()
    with start_verb(verb, *arguments, environment=environment, **streams) as process:
        printed, _ = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode:
        raise UsageError(f"{side} ended with {process.returncode}: {printed.splitlines()[-1]}")
    return seconds


# ---- Our side.


def our_command(products: str) -> Callable[[Row, Path, Path, Path], list[str]]:
    """Return the function `command` of our side, with matrix products in the dtype `products`."""

    def command(row: Row, text: Path, workdir: Path, cache: Path) -> list[str]:
        fields = {
            "data.path": text,
            "data.validation_fraction": 0,
            "data.sequence_length": row["length"],
            "data.global_batch_size": row["batch"],
            "model.width": row["width"],
            "model.depth": row["depth"],
            "model.num_heads": row["heads"],
            "model.positions": "learned",
            "model.norm": "layer_norm",
            "model.feed_forward": "gelu",
            "model.use_bias": "true",
            "model.tied_embeddings": "true",
            "optimizer.name": "adamw",
            "optimizer.learning_rate": OPTIMIZER["learning_rate"],
            "optimizer.weight_decay": OPTIMIZER["weight_decay"],
            "optimizer.beta2": OPTIMIZER["beta2"],
            "optimizer.warmup_steps": OPTIMIZER["warmup"],
            "optimizer.schedule": "linear",
            "optimizer.final_learning_rate_ratio": 0,
            "train.steps": row["steps"],
            "train.log_every_steps": row["log"],
            "checkpoint.every_steps": row["steps"],
            "task.sample_prompts": "()",
            "precision.products": products,
        }
        if row["vocabulary"]:
            fields |= {"data.tokenizer.kind": "bpe"}
            fields |= {"data.tokenizer.vocabulary_size": row["vocabulary"]}
        command = ["train.py", "--config=configs/shakespeare_char.py", f"--workdir={workdir}"]
        return command + overrides(fields)

    return command


def our_outcome(workdir: Path) -> dict[str, Any]:
    """Return the outcome of our run, from its checkpoint and its log."""
    (manifest,) = workdir.glob("checkpoints/*/manifest.json")
    leaves = json.loads(manifest.read_text())["leaves"]
    shapes = [leaf["shape"] for name, leaf in leaves.items() if name.startswith("params.")]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    return {"parameters": sum(map(math.prod, shapes)), **mean_of_last(losses)}


# ---- The Trainer's.


def trainer_command(**settings: bool) -> Callable[[Row, Path, Path, Path], list[str]]:
    """Return the function `command` of the Trainer. settings: `compiled`, `bfloat16`."""

    def command(row: Row, text: Path, workdir: Path, cache: Path) -> list[str]:
        flags = {**row, **OPTIMIZER, "text": text, "workdir": workdir, "cache": cache}
        flags |= {name: int(value) for name, value in settings.items()}
        return ["benchmarks/peer_trainer.py", *(f"--{name}={v}" for name, v in flags.items())]

    return command


def trainer_outcome(workdir: Path) -> dict[str, Any]:
    """Return the outcome of the Trainer's run, from its checkpoint."""
    (checkpoint,) = workdir.glob("checkpoint-*")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    with (checkpoint / "model.safetensors").open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors.pop("__metadata__", None)
    losses = [line["loss"] for line in state["log_history"] if "loss" in line]
    shapes = [tensor["shape"] for tensor in tensors.values()]
    return {"parameters": sum(map(math.prod, shapes)), **mean_of_last(losses)}


def mean_of_last(losses: Sequence[float]) -> dict[str, float]:
    """Return `loss`, the mean of the last `LAST_LOSSES`, and `loss_error`, its standard error."""
    last = losses[-LAST_LOSSES:]
    return {
        "loss": statistics.mean(last),
        "loss_error": statistics.stdev(last) / len(last) ** 0.5,
    }


def trainer(group: str, *, compiled: bool) -> Side:
    """Return a side of the Trainer."""
    command = trainer_command(compiled=compiled, bfloat16=group == "bfloat16")
    return Side(group, command, trainer_outcome, is_ours=False)


SIDES = {
    "triform": Side("float32", our_command("float32"), our_outcome, is_ours=True),
    "eager": trainer("float32", compiled=False),
    "compiled": trainer("float32", compiled=True),
    "triform_bfloat16": Side("bfloat16", our_command("bfloat16"), our_outcome, is_ours=True),
    "eager_bfloat16": trainer("bfloat16", compiled=False),
    "compiled_bfloat16": trainer("bfloat16", compiled=True),
}
FLAGS = (
    Flag("text", "a text file", default=str(ROOT / "README.md")),
    Flag("row", "rows to measure (default: all)", repeatable=True, choices=tuple(ROWS)),
    Flag("side", "sides to measure (default: all)", repeatable=True, choices=tuple(SIDES)),
    Flag("rounds", "runs of each side, cold and warm", type=int, default=3, minimum=1),
    Flag("out", "a file for the results, as JSON"),
)


# ---- Results.


def seconds_of(runs: Sequence[Run], side: str, kind: str) -> list[float]:
    """Return the seconds of each run of a side and kind."""
    return [run["seconds"] for run in runs if run["side"] == side and run["kind"] == kind]


def fastest_trainer(runs: Sequence[Run], group: str, kind: str) -> str | None:
    """Return the Trainer's side of the group with the least median; None if there is none."""
    sides = {run["side"] for run in runs if not SIDES[run["side"]].is_ours}
    return min(
        (side for side in sides if SIDES[side].group == group),
        key=lambda side: statistics.median(seconds_of(runs, side, kind)),
        default=None,
    )


def fastest(runs: Sequence[Run]) -> set[str | None]:
    """Return the Trainer's sides that are the fastest of their group, cold or warm."""
    groups = {side.group for side in SIDES.values()}
    return {fastest_trainer(runs, group, kind) for group in groups for kind in KINDS}


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return `sides`, the results of each side, and `ratios`, by group and kind."""
    sides: dict[str, Any] = {}
    for name in (name for name in SIDES if any(run["side"] == name for run in runs)):
        own = [run for run in runs if run["side"] == name]
        times = {kind: seconds_of(runs, name, kind) for kind in KINDS}
        sides[name] = {
            "seconds": times,
            "median": {kind: statistics.median(each) for kind, each in times.items()},
            "parameters": own[0]["parameters"],
            "loss": statistics.mean(run["loss"] for run in own),
            "loss_error": statistics.mean(run["loss_error"] for run in own),
        }
    ratios: dict[str, dict[str, float]] = {}
    for name in (name for name in sides if SIDES[name].is_ours):
        group = SIDES[name].group
        for kind in KINDS:
            if peer := fastest_trainer(runs, group, kind):
                ours, theirs = (sides[side]["median"][kind] for side in (name, peer))
                ratios.setdefault(group, {})[kind] = theirs / ours
    return {"sides": sides, "ratios": ratios}


def table(name: str, found: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the cells of each line of the table of a row."""
    for side, its in found["sides"].items():
        times = [
            f"{its['median'][kind]:.1f} ({' '.join(f'{s:.1f}' for s in its['seconds'][kind])})"
            for kind in KINDS
        ]
        loss = f"{its['loss']:.3f} ± {its['loss_error']:.3f}"
        yield [f"`{name}`", side, *times, f"{its['parameters']:,}", loss]
    for group, ratios in found["ratios"].items():
        yield [
            f"`{name}`",
            f"ratio, {group}",
            *(f"**{ratios[kind]:.2f}**" for kind in KINDS),
            "",
            "",
        ]


if __name__ == "__main__":
    run_verb(main)
