"""Measures the seconds from a command to its first train step, or to its error message.

python benchmarks/startup.py [--text=input.txt] [--repeats=3] [--profile]
                             [--config.section.field=value ...]

The first step of `shakespeare_char` is done when metrics.jsonl has its line. `cold` is a start
without prepared data and compiled programs, `warm` one with both; the workdir is always new. Wrong
command lines are timed until their process ends. For comparison, Python alone, and Python with the
libraries that every program imports, are timed too. All are measured alternately; the shortest time
of the repeats is printed. `--profile` also lists the slowest imports of a warm start.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROOT, overrides, start_verb, take_turns
from configs.reading.command_line import Flag, parse_command_line, run_verb

FLAGS = (
    Flag("text", "a text file", default=str(ROOT / "README.md")),
    Flag("repeats", "starts of each kind", type=int, default=3, minimum=1),
    Flag("profile", "list the slowest imports", switch=True),
)
RECIPE = "configs/shakespeare_char.py"
CONFIG = f"--config={RECIPE}"
KEPT_RUN = "--workdir=tests/golden/workdirs/attention_text"
ERRORS: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import ml_collections, numpy, pydantic'": (
        "-c", "import ml_collections, numpy, pydantic",
    ),
    "train.py with a wrong flag": ("train.py", CONFIG, "--workdir=gone", "--stesp=3"),
    "train.py with a wrong field": ("train.py", CONFIG, "--workdir=gone", "--config.train.stesp=3"),
    "train.py with a wrong value": (
        "train.py", CONFIG, "--workdir=gone", "--config.model.width=wide",
    ),
    "train.py with a missing file": (
        "train.py", CONFIG, "--workdir=gone", "--config.data.path=gone.txt",
    ),
    "evaluate.py of no workdir": ("evaluate.py", "--workdir=gone"),
    "generate.py with a wrong value": ("generate.py", KEPT_RUN, "--prompt=a", "--top_k=-1"),
}  # fmt: skip
"""Commands that end at once: two baselines, and command lines with one mistake each."""

SHOWN = 15


def main(argv: list[str]) -> None:
    """Measure and print the times."""
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    fields = {"data.path": arguments.text, "train.steps": "1000000", "train.log_every_steps": "1"}
    flags = overrides(fields | arguments.overrides)
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            cache = Path(folder) / f"cache-{repeat}"
            for kind, found in times.items():
                found.append(seconds_to_first_step(Path(folder) / f"{kind}-{repeat}", cache, flags))
        for kind, found in times.items():
            each = " ".join(f"{seconds:.1f}" for seconds in found)
            print(f"{kind}: first step after {min(found):.1f} s (each: {each})", flush=True)
        commands = {name: partial(seconds_to_exit, command) for name, command in ERRORS.items()}
        for name, ends in take_turns(commands, arguments.repeats).items():
            seconds, processor = (min(each) for each in zip(*ends, strict=True))
            print(f"{name}: over after {seconds:.2f} s ({processor:.2f} s of processor time)")
        if arguments.profile:
            log, options = Path(folder) / "imports", ("-X", "importtime")
            seconds_to_first_step(Path(folder) / "profile", cache, flags, options, log)
            print_imports(log.read_text())


def seconds_to_first_step(
    workdir: Path,
    cache: Path,
    flags: Sequence[str],
    options: Sequence[str] = (),
    log: Path = Path(os.devnull),
    *,
    recipe: str = RECIPE,
    tree: Path = ROOT,
) -> float:
    """Return the seconds from the start of a new run to its first step, then kill the run.

    cache: the cache folder.
    flags: the arguments of train.py.
    options: options of the Python interpreter.
    log: the file for standard error.
    recipe: a path in the tree.
    tree: the root of the tree with train.py.
    """
    metrics = workdir / "metrics.jsonl"
    command = ("train.py", f"--config={recipe}", f"--workdir={workdir}", *flags)
    how = {"options": options, "environment": {"TRIFORM_CACHE": cache}, "tree": tree}
    began = time.perf_counter()
    with (
        log.open("w") as errors,
        start_verb(*command, **how, stdout=subprocess.DEVNULL, stderr=errors) as process,
    ):
        while not (metrics.exists() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"train.py ended with status {process.returncode}")
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        process.kill()
    return seconds


def seconds_to_exit(command: Sequence[str]) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds of a command; check its exit status."""
    began, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode != (0 if command[0] == "-c" else 2):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    user = after.children_user - before.children_user
    return seconds, user + after.children_system - before.children_system


def print_imports(log: str) -> None:
    """Print the slowest imports in a log of `-X importtime`, each with the imports inside it."""
    rows = re.findall(r"import time: +\d+ \| +(\d+) \| +(\S+)", log)
    for microseconds, name in sorted(((int(n), name) for n, name in rows), reverse=True)[:SHOWN]:
        print(f"{microseconds / 1e6:8.2f} s  {name}")


if __name__ == "__main__":
    run_verb(main)
