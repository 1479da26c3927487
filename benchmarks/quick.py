"""Compares the speed of this tree with that of another commit, in under three minutes.

python benchmarks/quick.py [--base=COMMIT] [--row=NAME ...] [--turns=5]

The check before a change to a hot path lands. The base is by default the last commit if this tree
differs from it, else the commit at which this branch left `main`, or on `main` the commit before.
The rows:

- `decoder`, `lstm`, `cnn`: the compiled train step of a small model;
- `loop`: `train.py`'s loop around a step that takes next to no time, with logs and checkpoints;
- `input`: batches of a small text, from prepared data;
- `start`: from the command to the first step, with prepared data and compiled programs.

Both trees run in the same environment, each in its own processes (`quick_side.py`), alternately,
with the settings that both have. A row has the medians of the turns, and the median of the ratios
of their times (above 1, this tree is slower). If that is above 1.15, the row is measured again,
with three times as many turns; if it is so again, the exit status is 1.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROOT, overrides, print_head, print_row, take_turns
from benchmarks.startup import seconds_to_first_step
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb

BASE, THIS = "base", "this tree"
LIMIT = 1.15
AGAIN = 3
START_TURNS, SLICE_SECONDS = 3, 0.5
SIDE = "benchmarks/quick_side.py"

ENDLESS = {
    "train.steps": 10_000_000,
    "train.evaluate_every_steps": 10_000_000,
    "optimizer.schedule": "constant",
}
TINY = {
    "model.channels": "4,4",
    "model.width": 16,
    "data.global_batch_size": 8,
    "checkpoint.every_steps": 500,
}
TEXT = {"data.path": ROOT / "README.md"}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    recipe, fields: the run that is measured, a recipe and its overrides.
    slice: what of it is measured, as in `quick_side.py`; None: its start.
    unit, factor, per_second: a value is `factor` times the seconds of one item; if `per_second`,
        times the items of a second.
    count: the number of items in a slice; None: as many as take `SLICE_SECONDS`.
    """

    recipe: str
    fields: Mapping[str, object]
    slice: str | None
    unit: str
    factor: float = 1.0
    per_second: bool = False
    count: int | None = None

    def shown(self, seconds: float) -> str:
        """Return the time of one item as text, with the unit."""
        value = self.factor / seconds if self.per_second else self.factor * seconds
        return f"{value:,.3g} {self.unit}" if value < 1000 else f"{value:,.0f} {self.unit}"


ROWS = {
    "decoder": Row("shakespeare_char", TEXT, "step", "ms", 1e3),
    "lstm": Row("text_lstm", TEXT, "step", "ms", 1e3),
    "cnn": Row("digits_cnn", {}, "step", "ms", 1e3),
    "loop": Row("digits_cnn", TINY, "loop", "steps/s", per_second=True, count=500),
    "input": Row("shakespeare_char", TEXT, "input", "records/s", 12, per_second=True),
    "start": Row("shakespeare_char", TEXT, None, "s"),
}
FLAGS = (
    Flag("base", "the commit to compare with"),
    Flag("row", f"of {', '.join(ROWS)} (default: all)", repeatable=True, choices=tuple(ROWS)),
    Flag("turns", "of each side", type=int, default=5, minimum=1),
)
HEAD = ("row", BASE, THIS, "time, this tree / base")


# ---- The trees.


def git(*arguments: str) -> str | None:
    """Return what a git command prints; None if it fails."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    return None if done.returncode else done.stdout.strip()


def default_base() -> str:
    """Return the commit that this tree is compared with by default."""
    if git("status", "--porcelain", "--untracked-files=no"):
        return "HEAD"
    left = git("merge-base", "HEAD", "main")
    return left if left and left != git("rev-parse", "HEAD") else "HEAD~1"


def unpack(commit: str, folder: Path) -> Path:
    """Write the files of a commit into a new folder; return the folder. Raises `UsageError`."""
    if git("rev-parse", "--verify", f"{commit}^{{commit}}") is None:
        raise UsageError(f"--base: there is no commit {commit} in the repository {ROOT}")
    folder.mkdir()
    archive = ["git", "-C", str(ROOT), "archive", commit]
    packed = subprocess.run(archive, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


def side_script(tree: Path) -> Path:
    """Return the tree's own `quick_side.py`, which fits its `train.py`; if it has none, ours."""
    return tree / SIDE if (tree / SIDE).exists() else ROOT / SIDE


def known_fields(tree: Path, recipes: Sequence[str]) -> dict[str, set[str]]:
    """Return the fields that the recipes have in a tree. Raises `UsageError` if it lacks one."""
    files = {f"configs/{recipe}.py": recipe for recipe in recipes}
    command = [sys.executable, str(side_script(tree)), "fields", *files]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise UsageError(f"recipes of {tree} can't be read ({reason}): choose a later --base")
    return {files[file]: set(names) for file, names in json.loads(done.stdout).items()}


# ---- A side.


class Trainer:
    """A run of `train.py` in a tree, paused, which measures slices of itself.

    arguments: those of train.py.
    cache: the cache folder.
    log: the file for what the run prints.
    """

    def __init__(self, tree: Path, arguments: Sequence[str], cache: Path, log: Path):
        self._tree, self._log = tree, log
        command = [sys.executable, str(side_script(tree)), "serve", *arguments]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=tree,
                env=os.environ | {"TRIFORM_CACHE": str(cache)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def wait(self) -> float:
        """Wait for an answer; return it, in seconds. Exits with status 1 if the run ended."""
        assert self._process.stdout is not None
        if not (answer := self._process.stdout.readline()):
            last = "\n".join(self._log.read_text().splitlines()[-15:])
            raise SystemExit(f"quick.py: train.py ended in {self._tree}:\n{last}")
        return float(answer)

    def seconds(self, kind: str, count: int) -> float:
        """Measure a slice; return its seconds per item."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {count}\n")
        self._process.stdin.flush()
        return self.wait() / count

    def close(self) -> None:
        """End the run."""
        self._process.kill()
        self._process.communicate()


# ---- The comparison.


@dataclass(frozen=True)
class Found:
    """What was measured of a row: seconds of each turn, by side."""

    times: Mapping[str, Sequence[float]]

    @property
    def ratio(self) -> float:
        """Return the median of the turns' ratios; above 1, this tree is slower."""
        pairs = zip(self.times[THIS], self.times[BASE], strict=True)
        return median(ours / theirs for ours, theirs in pairs)

    @property
    def fails(self) -> bool:
        """Return whether this tree is too slow."""
        return self.ratio > LIMIT


def compare(sides: Mapping[str, Callable[[], float]], turns: int) -> Found:
    """Measure the sides alternately; if this tree is too slow, measure again, with more turns."""
    found = Found(take_turns(sides, turns))
    return Found(take_turns(sides, AGAIN * turns)) if found.fails else found


class Comparison:
    """Measures rows in two trees.

    trees: the roots of the base and of this tree.
    folder: an empty folder, for caches and workdirs.
    """

    def __init__(self, trees: Mapping[str, Path], folder: Path):
        self._trees, self._folder, self._workdirs = trees, folder, 0
        recipes = sorted({row.recipe for row in ROWS.values()})
        first, second = (known_fields(tree, recipes) for tree in trees.values())
        self._known = {recipe: first[recipe] & second[recipe] for recipe in recipes}

    def arguments(self, row: Row) -> list[str]:
        """Return the overrides of a row's run: of the fields that both trees have."""
        fields = {**ENDLESS, **row.fields, "mesh.data": 1}
        return overrides({k: v for k, v in fields.items() if k in self._known[row.recipe]})

    def measure(self, row: Row, turns: int) -> Found:
        """Measure a row."""
        if row.slice is None:
            return self._starts(row, min(turns, START_TURNS))
        with ExitStack() as stack:
            trainers = {
                side: stack.enter_context(closing(self._trainer(side, row))) for side in self._trees
            }
            for trainer in trainers.values():
                trainer.wait()
            count = row.count
            if count is None:
                slowest = max(each.seconds(row.slice, 5) for each in trainers.values())
                count = max(1, int(SLICE_SECONDS / slowest))
            slices = {
                side: partial(each.seconds, row.slice, count) for side, each in trainers.items()
            }
            for one in slices.values():
                one()
            return compare(slices, turns)

    def _trainer(self, side: str, row: Row) -> Trainer:
        workdir = self._workdir()
        arguments = [f"--config=configs/{row.recipe}.py", f"--workdir={workdir}"]
        arguments += self.arguments(row)
        return Trainer(self._trees[side], arguments, self._cache(side), workdir.with_suffix(".log"))

    def _starts(self, row: Row, turns: int) -> Found:
        """Measure starts of train.py. The first ones fill the caches."""
        flags = [*self.arguments(row), "--config.train.log_every_steps=1"]

        def start(side: str) -> float:
            tree, recipe = self._trees[side], f"configs/{row.recipe}.py"
            return seconds_to_first_step(
                self._workdir(), self._cache(side), flags, recipe=recipe, tree=tree
            )

        starts = {side: partial(start, side) for side in self._trees}
        for one in starts.values():
            one()
        return compare(starts, turns)

    def _cache(self, side: str) -> Path:
        return self._folder / f"cache of {side}"

    def _workdir(self) -> Path:
        self._workdirs += 1
        return self._folder / f"run-{self._workdirs}"


def lines(comparison: Comparison, names: Sequence[str], turns: int) -> Iterator[tuple[str, Found]]:
    """Measure the rows; print and yield each when it is finished."""
    print_head(HEAD)
    for name in names:
        found = comparison.measure(ROWS[name], turns)
        times = (ROWS[name].shown(median(found.times[side])) for side in (BASE, THIS))
        print_row((f"`{name}`", *times, f"{found.ratio:.2f}" + ", too slow" * found.fails))
        yield name, found


def main(argv: list[str]) -> int:
    """Measure the rows and print the table. Return the exit status."""
    arguments = parse_command_line(argv, FLAGS)
    os.environ["JAX_PLATFORMS"] = "cpu"
    commit = arguments.base or default_base()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = {BASE: unpack(commit, folder / "tree"), THIS: ROOT}
        print(f"base: {git('log', '-1', '--format=%h %s', commit)}", flush=True)
        comparison = Comparison(trees, folder)
        rows = lines(comparison, arguments.row or tuple(ROWS), arguments.turns)
        slow = [name for name, found in rows if found.fails]
    if slow:
        print(f"quick.py: slower than the base by more than {LIMIT - 1:.0%}: {', '.join(slow)}")
    return int(bool(slow))


if __name__ == "__main__":
    run_verb(main)
