"""The whole command beside Hugging Face's Trainer: a text file to a trained GPT-2 of random
weights, its log and one checkpoint, in seconds of wall time from the command to its exit.

python benchmarks/whole_command.py [--text=input.txt] [--rounds=3] [--row=ROW ...]
    [--side=SIDE ...] [--out=FILE]

Needs the `bench` extra. Both sides have the same text and kind of tokenizer, shape, batch, steps,
AdamW, clipping, schedule and intervals, no dropout, no validation, and all cores; each run has a
new folder. Cold: no cache of any kind is there. Warm: those that the cold run before it left are
(ours: tokens and compiled programs; theirs: tokens, and what `torch.compile` keeps). The sides
take turns; the Trainer counts with the faster of eager and compiled, and one that is the slower
both cold and warm is left out after the first round. What differs: ours writes a report, and
TensorBoard's files too; its log has the loss of a batch, theirs the mean of those between two
lines; its warm-up begins with the first step of it, theirs with a learning rate of zero.

The last line of standard output, and FILE, is one JSON object.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb

ROOT = Path(__file__).parents[1]

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

SIDES = ("triform", "eager", "compiled")
FLAGS = (
    Flag("text", "a text file", default=str(ROOT / "README.md")),
    Flag("row", "a row to measure; all without", repeatable=True, choices=tuple(ROWS)),
    Flag("side", "a side to measure; all without", repeatable=True, choices=SIDES),
    Flag("rounds", "runs of each side, cold and warm", type=int, default=3, minimum=1),
    Flag("out", "a file for the figures, as JSON"),
)
KINDS = ("cold", "warm")
LAST_LOSSES = 10
RECIPE = {"learning_rate": 1e-3, "weight_decay": 0.1, "beta2": 0.99, "warmup": 30}


def main(argv: list[str]) -> int:
    arguments = parse_command_line(argv, FLAGS)
    text = Path(arguments.text).absolute()
    print("| row | side | cold, s | warm, s | parameters | last losses |")
    print("|---|---|---|---|---|---|", flush=True)
    found = {}
    for name in arguments.row or ROWS:
        runs = measure(ROWS[name], text, arguments.rounds, arguments.side or SIDES)
        found[name] = figures(runs)
        print("\n".join(table(name, found[name])), flush=True)
    line = json.dumps(found)
    if arguments.out:
        Path(arguments.out).write_text(line + "\n")
    print(line)
    return 0


def measure(row: Mapping[str, Any], text: Path, rounds: int, sides=SIDES) -> list[dict[str, Any]]:
    """All runs of a row: `side`, `kind`, `seconds`, `parameters`, `loss` and its error."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            if turn == 1:
                kept = {"triform", *(faster(runs, kind) for kind in KINDS)}
                sides = [side for side in sides if side in kept]
            for side in sides if turn % 2 else sides[::-1]:
                home = Path(folder) / f"{turn}-{side}"
                for kind in KINDS:
                    seconds = run(side, row, text, home / kind, home / "cache")
                    outcome = READ[side](home / kind)
                    runs.append({"side": side, "kind": kind, "seconds": seconds, **outcome})
    return runs


def run(side: str, row: Mapping[str, Any], text: Path, workdir: Path, cache: Path) -> float:
    """Seconds from the command to its exit."""
    own = {"TRIFORM_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache / "inductor"}
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | {k: str(v) for k, v in own.items()}
    command = [sys.executable, *COMMAND[side](row, text, workdir, cache)]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise UsageError(f"{side} ended with {done.returncode}: {done.stderr.splitlines()[-1]}")
    return seconds


# ---- Our side.


def our_command(row: Mapping[str, Any], text: Path, workdir: Path, cache: Path) -> list[str]:
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
        "optimizer.learning_rate": RECIPE["learning_rate"],
        "optimizer.weight_decay": RECIPE["weight_decay"],
        "optimizer.beta2": RECIPE["beta2"],
        "optimizer.warmup_steps": RECIPE["warmup"],
        "optimizer.schedule": "linear",
        "optimizer.final_learning_rate_ratio": 0,
        "train.steps": row["steps"],
        "train.log_every_steps": row["log"],
        "checkpoint.every_steps": row["steps"],
        "task.sample_prompts": "()",
    }
    if row["vocabulary"]:
        fields |= {"data.tokenizer.kind": "bpe"}
        fields |= {"data.tokenizer.vocabulary_size": row["vocabulary"]}
    command = ["train.py", "--config=configs/shakespeare_char.py", f"--workdir={workdir}"]
    return command + [f"--config.{name}={value}" for name, value in fields.items()]


def our_outcome(workdir: Path) -> dict[str, Any]:
    """The parameters of the run's one checkpoint, and `last` of its losses, one batch a line."""
    (manifest,) = workdir.glob("checkpoints/*/manifest.json")
    leaves = json.loads(manifest.read_text())["leaves"]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {
        "parameters": sum(
            math.prod(leaf["shape"]) for name, leaf in leaves.items() if name.startswith("params.")
        ),
        **last([json.loads(line)["loss"] for line in lines]),
    }


# ---- The peer's.


def peer_command(row, text: Path, workdir: Path, cache: Path, compiled: int = 0) -> list[str]:
    own = {"text": text, "workdir": workdir, "cache": cache, "compiled": compiled}
    flags = [f"--{name}={value}" for name, value in (row | RECIPE | own).items()]
    return ["benchmarks/peer_trainer.py", *flags]


def peer_outcome(workdir: Path) -> dict[str, Any]:
    """The same of the Trainer's folder; its losses are means over the steps between two lines."""
    (checkpoint,) = workdir.glob("checkpoint-*")
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    with (checkpoint / "model.safetensors").open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors.pop("__metadata__", None)
    return {
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors.values()),
        **last([line["loss"] for line in state["log_history"] if "loss" in line]),
    }


def last(losses: list[float]) -> dict[str, float]:
    """`loss`, the mean of the last lines, and `loss_error`, its standard error."""
    ends = losses[-LAST_LOSSES:]
    return {
        "loss": statistics.mean(ends),
        "loss_error": statistics.stdev(ends) / len(ends) ** 0.5,
    }


COMMAND = {
    "triform": our_command,
    "eager": peer_command,
    "compiled": lambda *of: peer_command(*of, compiled=1),
}
READ = {"triform": our_outcome, "eager": peer_outcome, "compiled": peer_outcome}


# ---- What is told.


def seconds_of(runs: list[dict[str, Any]], side: str, kind: str) -> list[float]:
    return [run["seconds"] for run in runs if run["side"] == side and run["kind"] == kind]


def faster(runs: list[dict[str, Any]], kind: str) -> str | None:
    """The peer's faster side, by its median."""
    peers = {run["side"] for run in runs} - {"triform"}
    return min(
        peers, key=lambda side: statistics.median(seconds_of(runs, side, kind)), default=None
    )


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and each time of every side and kind; ratios, above 1 where we are faster."""
    found: dict[str, Any] = {"sides": {}, "ratio": {}}
    for side in dict.fromkeys(run["side"] for run in runs):
        own = [run for run in runs if run["side"] == side]
        times = {kind: seconds_of(runs, side, kind) for kind in KINDS}
        found["sides"][side] = {
            "seconds": times,
            "median": {kind: statistics.median(each) for kind, each in times.items()},
            "parameters": own[0]["parameters"],
            "loss": statistics.mean(run["loss"] for run in own),
            "loss_error": statistics.mean(run["loss_error"] for run in own),
        }
    for kind in KINDS:
        peer = faster(runs, kind)
        if peer and "triform" in found["sides"]:
            ours, theirs = (found["sides"][side]["median"][kind] for side in ("triform", peer))
            found["ratio"][kind] = theirs / ours
    return found


def table(name: str, found: Mapping[str, Any]) -> list[str]:
    """The lines of a row."""
    lines = []
    for side, of in found["sides"].items():
        times = [
            f"{of['median'][kind]:.1f} ({' '.join(f'{s:.1f}' for s in of['seconds'][kind])})"
            for kind in KINDS
        ]
        loss = f"{of['loss']:.3f} ± {of['loss_error']:.3f}"
        lines.append(f"| `{name}` | {side} | {' | '.join(times)} | {of['parameters']:,} | {loss} |")
    ratios = " | ".join(f"**{ratio:.2f}**" for ratio in found["ratio"].values())
    return [*lines, f"| `{name}` | ratio | {ratios or ' | '} | | |"]


if __name__ == "__main__":
    run_verb(main)
