"""Measures the overhead of the training loop: train.py compared with its bare compiled step.

python benchmarks/loop.py [--recipe=NAME ...] [--text=input.txt] [--rounds=4]
                          [--config.section.field=value ...]

Slices of two kinds alternate in one process. A loop slice has steps of `Run.loop`, with input,
logs, TensorBoard, progress, signals and checkpoints. A bare slice has as many steps of the same
executable, on batches that stay on the device. Each loop slice is compared with the mean of the two
bare slices next to it. A round has as many loop steps as there are between two checkpoints. In its
last slice, a checkpoint is saved in the middle; the slice's time includes the checkpoint's writes
in the background. Evaluation is off.

The overheads are shares of the bare step time: of steps (median and quartiles of the slices without
a checkpoint), of checkpoints (median cost, spread over the steps between two checkpoints), and
their sum.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import train
from benchmarks.measuring import ROOT, overrides, print_head, print_row
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb

FLAGS = (
    Flag("recipe", "recipes in configs/ (default: shakespeare_char, digits_cnn)",
                 repeatable=True),
    Flag("text", "a text file, for the recipes that need one",
                 default=str(ROOT / "README.md")),
    Flag("rounds", "intervals of checkpoints", type=int, default=4, minimum=1),
)  # fmt: skip
SLICES, STEPS = 20, 20
"""Largest number of slices in a round, and smallest number of steps in a slice."""
KEPT_BATCHES = 8
HEAD = ("recipe", "bare step, ms", "steps", "a checkpoint, ms", "checkpoints", "overhead")


class Done(Exception):
    """Raised to end the run after the last round."""


class Turns:
    """Replaces a run's train step: every `size` calls, it also runs and times as many bare steps.

    `loop` and `bare` are the seconds of each slice. Raises `Done` after `slices` loop slices.
    """

    def __init__(self, run: train.Run, step, size: int, slices: int):
        self._run, self._step, self.size, self._slices = run, step, size, slices
        self._batches: list = []
        self._count, self._began = 0, 0.0
        self.loop: list[float] = []
        self.bare: list[float] = []

    def __call__(self, state, batch):
        import jax

        # Half a slice comes first: it warms up, and moves checkpoints to the middle of a slice.
        count, self._count = self._count - self.size // 2, self._count + 1
        if len(self._batches) < KEPT_BATCHES:
            self._batches.append(jax.device_put(batch, self._run.program.batch_sharding))
        if count >= 0 and count % self.size == 0:
            state = self._pause(state)
        return self._step(state, batch)

    def _pause(self, state):
        """Run a bare slice from `state`. Return the new state, from which the run continues."""
        import jax

        jax.block_until_ready(state)
        self._run.checkpoints.wait()
        if self._began:
            self.loop.append(time.perf_counter() - self._began)
        self._run.progress.stop()  # Not drawn during bare steps; the run's next step restarts it.
        began = time.perf_counter()
        for number in range(self.size):
            batch = self._batches[number % len(self._batches)]
            state, metrics = self._step(state, batch)
        jax.block_until_ready((state, metrics))
        self.bare.append(time.perf_counter() - began)
        if len(self.loop) == self._slices:
            raise Done
        self._began = time.perf_counter()
        return state


def measure(recipe: str, given: dict[str, str], *, text: str, rounds: int) -> dict[str, float]:
    """Run the recipe with the overrides `given`. Return times in seconds, and overheads as
    fractions.

    text: the training text for recipes that need one.
    """
    turns: list[Turns] = []

    class Run(train.Run):
        def compile(self, rows):
            every, step = self.config.checkpoint.every_steps, super().compile(rows)
            fit = [n for n in range(2, SLICES + 1) if every % n == 0 and every // n >= STEPS]
            if not fit:
                raise UsageError(f"checkpoint.every_steps={every} can't be cut into slices")
            turns.append(Turns(self, step, every // fit[-1], rounds * fit[-1]))
            self.steps = dict.fromkeys(self.steps, turns[0])
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
        command = [f"--config={ROOT}/configs/{recipe}.py", f"--workdir={folder}/run"]
        real, train.Run = train.Run, Run
        try:
            train.main(command + overrides(fields | given))
        except Done:
            pass
        finally:
            train.Run = real
    (found,) = turns
    loop = np.reshape(found.loop, (rounds, -1))
    bare = np.convolve(found.bare, [0.5, 0.5], "valid").reshape(loop.shape)
    shares = loop[:, :-1] / bare[:, :-1] - 1
    checkpoint = np.median(loop[:, -1] - bare[:, -1] * (1 + np.median(shares)))
    step, interval = np.median(bare) / found.size, found.size * loop.shape[1]
    low, middle, high = np.quantile(shares, (0.25, 0.5, 0.75))
    spread = checkpoint / (interval * step)
    return {
        "step": step, "low": low, "steps": middle, "high": high,
        "checkpoint": checkpoint, "checkpoints": spread, "all": middle + spread,
    }  # fmt: skip


def main(argv: list[str]) -> None:
    """Measure the recipes and print the table."""
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    print_head(HEAD)
    for recipe in arguments.recipe or ("shakespeare_char", "digits_cnn"):
        how = {"text": arguments.text, "rounds": arguments.rounds}
        found = measure(recipe, arguments.overrides, **how)
        cells = (
            f"`{recipe}`",
            f"{1e3 * found['step']:.1f}",
            f"{found['steps']:.1%} ({found['low']:.1%} to {found['high']:.1%})",
            f"{1e3 * found['checkpoint']:.0f}",
            f"{found['checkpoints']:.1%}",
            f"{found['all']:.1%}",
        )
        print_row(cells)


if __name__ == "__main__":
    run_verb(main)
