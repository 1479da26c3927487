"""Kills a run at random moments, again and again, and compares it with a run that was not killed.

python benchmarks/random_kills.py [--kills=200] [--seed=0]

The run saves every 3 steps. Each time it is started, it is killed (SIGKILL) at a random moment up
to a second after its first save would be there: in the start, the restore, the compilation, a step
or a save. At the end, the batches and losses of all its steps and all arrays of its last checkpoint
must be equal, bit for bit, to those of a run that was never killed.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import power_cuts
from benchmarks.measuring import overrides, start_verb
from benchmarks.power_cuts import PATIENCE, newest
from configs.reading.command_line import Flag, parse_command_line, run_verb

FLAGS = (
    Flag("kills", "how often the run is killed", type=int, default=200, minimum=1),
    Flag("seed", "of the random moments", type=int, default=0),
)
SETTINGS = power_cuts.SETTINGS | {
    "model.dropout": "0.1",
    "optimizer.warmup_steps": "0",
    "train.log_every_steps": "1",
    "train.log_batch_crc32": "true",
    "checkpoint.every_steps": "3",
}
AFTER_SAVE_SECONDS = 1.0


def start(workdir: Path, **fields: object) -> subprocess.Popen:
    """Start the run in `workdir`; `fields`: further settings, with `__` for the dot."""
    home = workdir.parent
    more = {name.replace("__", "."): str(value) for name, value in fields.items()}
    settings = overrides(SETTINGS | {"data.path": home / "input.txt"} | more)
    return start_verb(
        "train.py",
        "--config=configs/shakespeare_char.py",
        f"--workdir={workdir}",
        *settings,
        environment={"TRIFORM_CACHE": home / "cache", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def seconds_to_save(workdir: Path) -> float:
    """Return how long the run takes, from its start, to save once more; end it then."""
    before, began = newest(workdir), time.monotonic()
    process = start(workdir)
    while newest(workdir) == before:
        if process.poll() is not None or time.monotonic() > began + PATIENCE:
            raise RuntimeError(f"nothing was saved: status {process.poll()}")
        time.sleep(0.01)
    process.kill()
    process.wait()
    return time.monotonic() - began


def differences(killed: Path, whole: Path, steps: int) -> list[str]:
    """Return what differs between two runs that did `steps` steps."""
    from benchmarks.gpu_training import arrays_of
    from reporting.metric_log import read_metrics

    found = []
    lines = [[line for line in read_metrics(run) if "loss" in line] for run in (killed, whole)]
    for name in ("step", "batch_crc32", "loss"):
        one, other = ([line[name] for line in of] for of in lines)
        if one != other or len(one) != steps:
            found.append(f"{name} of the steps")
    one, other = (arrays_of(run, steps) for run in (killed, whole))
    found += sorted(one.keys() ^ other.keys())
    common = one.keys() & other.keys()
    return found + sorted(name for name in common if not np.array_equal(one[name], other[name]))


def main(argv: Sequence[str]) -> int:
    """Print a line for each kill. Return 1 if the run differs from the one that was not killed."""
    arguments = parse_command_line(argv, FLAGS)
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as home:
        text = "".join(f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(400))
        (Path(home) / "input.txt").write_text(text)
        killed, whole = Path(home) / "killed", Path(home) / "whole"
        seconds_to_save(killed)  # prepares and compiles
        longest = seconds_to_save(killed) + AFTER_SAVE_SECONDS
        for number in range(1, arguments.kills + 1):
            seconds = moments.uniform(0, longest)
            process = start(killed)
            time.sleep(seconds)
            process.kill()
            process.wait()
            saved = newest(killed)
            print(f"kill {number}: after {seconds:.2f} s, step {saved} is saved", flush=True)
        steps = newest(killed) + 3
        for workdir in (killed, whole):
            if status := start(workdir, train__steps=steps).wait():
                raise RuntimeError(f"{workdir.name}: status {status}")
        different = differences(killed, whole, steps)
    print(f"{arguments.kills} kills, {steps} steps: {', '.join(different) or 'all equal'}")
    return int(bool(different))


if __name__ == "__main__":
    run_verb(main)
