"""What the loop costs around the train step: real runs of train.py beside the bare compiled step.

python benchmarks/loop.py [--recipe=NAME ...] [--text=input.txt] [--rounds=4] [--bar]
                          [--config.section.field=value ...]

In one process and in turns: a slice of steps as `Run.loop` makes them (input, log, TensorBoard,
progress, signals, checkpoints), then as many of the same executable alone, on batches kept on the
device. A round is one interval of checkpoints, with one checkpoint in the middle of a slice; what
a slice leaves to the disk in the background is waited for on its clock. Evaluation is off.
Milliseconds a step (medians of the rounds), and the loop's overhead: the median, and each round's.
--bar: with the bar that a terminal shows, drawn into a pseudo-terminal.
"""

import contextlib
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import configs
import train

ROOT = Path(__file__).parents[1]
FLAGS = (
    configs.Flag("recipe", "recipes in configs/ (default: shakespeare_char, digits_cnn)",
                 repeatable=True),
    configs.Flag("text", "a text file, for the recipes that need one",
                 default=str(ROOT / "README.md")),
    configs.Flag("rounds", "intervals of checkpoints", type=int, default=4, minimum=1),
    configs.Flag("bar", "draw the bar of a terminal", switch=True),
)  # fmt: skip
SLICES = 10
"""Of a round."""
KEPT_BATCHES = 8


class Done(Exception):
    """All rounds are there: ends the run."""


class Turns:
    """The train step of a run, which now and then lets as many bare steps go before.

    `loop` and `bare` are the seconds of each slice.
    """

    def __init__(self, run: train.Run, step, size: int, slices: int):
        self._run, self._step, self.size, self._slices = run, step, size, slices
        self._bare_state = run.program.initialize()
        self._batches: list = []
        self._count, self._began = 0, 0.0
        self.loop: list[float] = []
        self.bare: list[float] = []

    def __call__(self, state, batch):
        # Half a slice first: it warms up, and puts checkpoints into the middle of slices.
        count, self._count = self._count - self.size // 2, self._count + 1
        if len(self._batches) < KEPT_BATCHES:
            self._batches.append(batch)
        if count >= 0 and count % self.size == 0:
            self._pause(state)
        return self._step(state, batch)

    def _pause(self, state) -> None:
        import jax

        jax.block_until_ready(state)
        self._run.checkpoints.wait()
        if self._began:
            self.loop.append(time.perf_counter() - self._began)
        self._run.progress.stop()  # Nothing is drawn meanwhile; the next step begins it again.
        began = time.perf_counter()
        for number in range(self.size):
            batch = self._batches[number % len(self._batches)]
            self._bare_state, metrics = self._step(self._bare_state, batch)
        jax.block_until_ready((self._bare_state, metrics))
        self.bare.append(time.perf_counter() - began)
        if len(self.loop) == self._slices:
            raise Done
        self._began = time.perf_counter()


def measure(recipe: str, overrides: dict[str, str], *, text: str, rounds: int) -> list[list[float]]:
    """Seconds a step of each round: in the loop, and bare between its slices."""
    turns: list[Turns] = []

    class Run(train.Run):
        def compile(self, state, example):
            every = self.config.checkpoint.every_steps
            size = max(2, every // SLICES)
            if every % size:
                raise configs.UsageError(f"checkpoint.every_steps={every} is not {SLICES} slices")
            step = super().compile(state, example)
            turns.append(Turns(self, step, size, rounds * (every // size)))
            return turns[0]

    with tempfile.TemporaryDirectory() as folder:
        fields = {
            "train.steps": "10000000",
            "train.evaluate_every_steps": "10000000",
            "optimizer.schedule": "constant",
            "data.cache_dir": f"{folder}/cache",
        }
        if recipe.startswith("shakespeare"):
            fields["data.path"] = text
        given = [f"--config.{name}={value}" for name, value in (fields | overrides).items()]
        command = [f"--config={ROOT}/configs/{recipe}.py", f"--workdir={folder}/run", *given]
        real, train.Run = train.Run, Run
        try:
            train.main(command)
        except Done:
            pass
        finally:
            train.Run = real
    (found,) = turns
    return [
        [sum(part) / len(part) / found.size for part in np.array_split(slices, rounds)]
        for slices in (found.loop, np.convolve(found.bare, [0.5, 0.5], "valid"))
    ]


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Standard error is a terminal, whose other end swallows what it is sent."""
    outer, inner = pty.openpty()
    kept = os.dup(2)
    with subprocess.Popen(["cat"], stdin=outer, stdout=subprocess.DEVNULL) as reader:
        os.dup2(inner, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            for descriptor in (inner, outer, kept):
                os.close(descriptor)
            reader.terminate()


def main(argv: list[str]) -> None:
    """Prints the table."""
    arguments = configs.parse_command_line(argv, FLAGS, overrides=True)
    print("| recipe | bare step, ms | in the loop, ms | overhead | of each round |")
    print("|---|---|---|---|---|", flush=True)
    for recipe in arguments.recipe or ("shakespeare_char", "digits_cnn"):
        with terminal() if arguments.bar else contextlib.nullcontext():
            loop, bare = measure(
                recipe, arguments.overrides, text=arguments.text, rounds=arguments.rounds
            )
        each = [100 * (one / other - 1) for one, other in zip(loop, bare, strict=True)]
        cells = [f"{1e3 * statistics.median(side):.2f}" for side in (bare, loop)]
        cells += [f"{statistics.median(each):.1f} %", " ".join(f"{one:.1f}" for one in each)]
        print(f"| `{recipe}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
