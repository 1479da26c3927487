"""A tree's side of `quick.py`: runs `train.py` of that tree, and measures slices of it on request.

python quick_side.py fields RECIPE ...      print the fields of each recipe, as JSON
python quick_side.py serve ARGUMENTS        train with these arguments of train.py

Runs in the root of the tree. `serve` pauses the run after some steps and prints a line. Then each
line of standard input asks for a slice, and the answer is its seconds:

    step COUNT      steps of the compiled program, on batches that stay on the device
    loop COUNT      steps of `Run.loop`, with input, logs, progress and checkpoints
    input COUNT     batches from the prepared data

The end of the input ends the run. Requests and answers stay as they are: a tree is measured beside
trees of other commits, each with its own copy of this file.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

sys.path.insert(0, os.getcwd())

WARM_UP, KEPT_BATCHES = 20, 8


class Done(Exception):
    """Raised to end the run."""


class Slices:
    """Replaces a run's train step: pauses the run to measure slices."""

    def __init__(self, run: Any, step: Any, answers: TextIO):
        self._run, self._step, self._answers = run, step, answers
        self._kept: list[Any] = []
        self._stream: Iterator[Any] | None = None
        self._count, self._pause_at, self._began = 0, WARM_UP, time.perf_counter()

    def __call__(self, state, batch):
        import jax

        if len(self._kept) < KEPT_BATCHES:
            self._kept.append(jax.device_put(batch, self._run.program.batch_sharding))
        if self._count == self._pause_at:
            state = self._pause(state)
        self._count += 1
        return self._step(state, batch)

    def _pause(self, state):
        """Measure what is asked for. Return the new state, from which the run continues."""
        import jax

        jax.block_until_ready(state)
        self._run.checkpoints.wait()
        self._answer()
        self._run.progress.stop()  # The run's next step restarts it.
        for line in sys.stdin:
            kind, count = line.split()
            self._began = time.perf_counter()
            if kind == "loop":
                self._pause_at = self._count + int(count)
                return state
            if kind == "step":
                for number in range(int(count)):
                    state, metrics = self._step(state, self._kept[number % len(self._kept)])
                jax.block_until_ready((state, metrics))
            else:
                self._read(int(count))
            self._answer()
        raise Done

    def _read(self, count: int) -> None:
        from data import prefetch

        if self._stream is None:
            workers = self._run.config.data.workers
            self._stream = prefetch.stream(self._run.batches, 0, 2**40, workers)
        for _ in range(count):
            next(self._stream)

    def _answer(self) -> None:
        print(time.perf_counter() - self._began, file=self._answers, flush=True)


def serve(arguments: list[str]) -> None:
    """Train, and measure slices on request. What the run prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import train

    class Run(train.Run):
        def compile(self, rows):
            slices = Slices(self, super().compile(rows), answers)
            self.steps = dict.fromkeys(self.steps, slices)
            return slices

    train.Run = Run
    with contextlib.suppress(Done):
        train.main(arguments)


def fields(recipes: list[str]) -> None:
    """Print the paths of each recipe's fields."""
    from configs.reading.recipes import read_recipe

    print(json.dumps({recipe: [*_paths(read_recipe(recipe))] for recipe in recipes}))


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


if __name__ == "__main__":
    {"serve": serve, "fields": fields}[sys.argv[1]](sys.argv[2:])
