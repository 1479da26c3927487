"""Shared helpers of the benchmarks: commands, tables, and sides.

A side is one of the implementations that a benchmark compares. Sides are measured alternately, each
in its own process.
"""

import multiprocessing
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
Measured = TypeVar("Measured")


# ---- Turns.


def alternate(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield each name once per round; every other round is in reverse order."""
    for number in range(rounds):
        yield from names if number % 2 else names[::-1]


def take_turns(
    sides: Mapping[str, Callable[[], Measured]], rounds: int
) -> dict[str, list[Measured]]:
    """Call the functions alternately, each `rounds` times; return the results of each by name."""
    found: dict[str, list[Measured]] = {name: [] for name in sides}
    for name in alternate([*sides], rounds):
        found[name].append(sides[name]())
    return found


# ---- A side, in its own process.


@dataclass(frozen=True)
class Work:
    """The steps that a side measures, in its process.

    run(n): runs n steps and returns their results.
    facts: metadata of the side.
    peak_bytes(): returns the peak memory of arrays on the GPU; None on CPU.
    """

    run: Callable[[int], list[Any]]
    facts: Mapping[str, Any]
    peak_bytes: Callable[[], int | None]


class Side:
    """A side that runs in its own process. `failed` is its error; None if it works.

    build(*arguments): returns the `Work`; it is called in that process.
    warm_up: number of steps before the measurement, in which compilation happens; `first` has their
        results.
    turn_seconds: target length of a turn.
    results: the results of the steps of all turns.
    """

    def __init__(
        self,
        build: Callable[..., Work],
        *arguments: Any,
        warm_up: int = 3,
        turn_seconds: float = 0.0,
    ):
        context = multiprocessing.get_context("spawn")
        self.failed: str | None = None
        self.seconds: list[float] = []
        self.results: list[Any] = []
        self.peak_bytes: int | None = None
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, build, arguments), daemon=True)
        self._process.start()
        other.close()
        self.facts: Mapping[str, Any] = self._receive() or {}
        warm = self._run(warm_up)
        self.first = warm[1] if warm else []
        pace = self._run(1)
        self.steps = max(1, int(turn_seconds / pace[0])) if pace else 1

    def turn(self) -> None:
        """Run one turn; append its mean time per step to `seconds`, its results to `results`."""
        if (done := self._run(self.steps)) is not None:
            self.seconds.append(done[0] / self.steps)
            self.results += done[1]

    @property
    def step_seconds(self) -> float:
        """Return the seconds per step: the median of the turns."""
        return median(self.seconds)

    def end(self) -> None:
        """Stop the side's process."""
        if not self.failed:
            self._pipe.send(None)
        self._process.join(20)
        if self._process.is_alive():
            self._process.terminate()

    def _run(self, steps: int) -> tuple[float, list[Any]] | None:
        """Run `steps` steps. Return their total seconds and their results; None if the side
        failed."""
        if self.failed:
            return None
        self._pipe.send(steps)
        if (done := self._receive()) is None:
            return None
        seconds, results, self.peak_bytes = done
        return seconds, results

    def _receive(self) -> Any:
        try:
            kind, content = self._pipe.recv()
        except EOFError:
            kind, content = "failed", "its process ended"
        if kind == "failed":
            self.failed = content
            return None
        return content


def _serve(pipe, build: Callable[..., Work], arguments: Sequence[Any]) -> None:
    """Receive numbers of steps, run them, and send seconds, results and peak bytes.

    This function runs in a side's process.
    """
    try:
        work = build(*arguments)
        pipe.send(("facts", work.facts))
        while (steps := pipe.recv()) is not None:
            began = time.perf_counter()
            results = work.run(steps)
            seconds = time.perf_counter() - began
            pipe.send(("results", (seconds, results, work.peak_bytes())))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0][:300]))


def in_own_process(function: Callable[..., Measured], *arguments: Any) -> Measured:
    """Call a function in a new process; return its result, or raise its error."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# ---- Commands.


def start_verb(
    verb: str,
    *arguments: str,
    options: Sequence[str] = (),
    environment: Mapping[str, Any] | None = None,
    tree: Path = ROOT,
    **files: Any,
) -> subprocess.Popen:
    """Start a program such as train.py, as a user would.

    options: options of the Python interpreter.
    environment: variables to add to the environment of this process.
    tree: the root of the tree with the program.
    files: `stdout` and others, as in `subprocess.Popen`.
    """
    own = {name: str(value) for name, value in (environment or {}).items()}
    command = [sys.executable, *options, str(tree / verb), *arguments]
    return subprocess.Popen(command, cwd=tree, env=os.environ | own, **files)


def overrides(fields: Mapping[str, Any]) -> list[str]:
    """Return fields of the configuration as command-line arguments."""
    return [f"--config.{name}={value}" for name, value in fields.items()]


# ---- Tables.


def print_head(names: Iterable[str]) -> None:
    """Print the header of a Markdown table."""
    names = list(names)
    print_row(names)
    print("|" + "---|" * len(names), flush=True)


def print_row(cells: Iterable[str]) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)
