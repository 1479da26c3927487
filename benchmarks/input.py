"""Measures how fast a run gets its batches, from prepared data to the training loop.

python benchmarks/input.py [--row=NAME ...] [--text=input.txt] [--workers=0,1,2] [--rounds=5]
                           [--seconds=1] [--config.section.field=value ...]

Measures, alternately, `data.prefetch.stream` with each number of `data.workers` and the recipe's
train step. The table has medians of the rounds. MB/s counts the bytes of the arrays. `cores` is the
CPU time of this process divided by wall time. Without workers, records/s divided by `cores` is the
rate of one core. `steps` is how many times faster batches come than train steps need them.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROOT, print_head, print_row, take_turns
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.recipes import load_config
from data.batches import Batches
from data.dataset import Dataset
from data.prefetch import stream
from data.preparation import prepare
from parallel.environment import set_environment
from parallel.mesh import make_mesh

ROWS: dict[str, tuple[str, dict[str, str]]] = {
    "windows": ("shakespeare_char", {"data.path": "{text}"}),
    "documents": ("python_stdlib", {"data.packing": "best_fit"}),
    "mixture": ("python_stdlib", {
        "data.source": "mixture",
        "data.parts": "python_stdlib,text_files:{text},text_files:{docs}",
        "data.weights": "5,3,2",
    }),
    "on_disk": ("python_stdlib", {}),
    "pictures": ("digits_cnn", {}),
    "jpegs": ("digits_cnn", {
        "data.source": "image_folder", "data.path": "{jpegs}", "data.image_size": "224",
        "data.decoded": "files", "data.augmentation.crop": "random_resized",
        "data.augmentation.flip_probability": "0.5", "data.global_batch_size": "16",
    }),
}  # fmt: skip
"""A recipe and its overrides. `on_disk` keeps no records in memory, like data too large for it.
`jpegs`: files of 500 by 375 pixels, decoded for every batch."""

FLAGS = (
    Flag("row", f"of {', '.join(ROWS)} (default: all)", repeatable=True,
                 choices=tuple(ROWS)),
    Flag("text", "a text file", default=str(ROOT / "README.md")),
    Flag("workers", "numbers of workers", default="0,1,2"),
    Flag("rounds", "turns of each", type=int, default=5, minimum=1),
    Flag("seconds", "of a turn", type=float, default=1.0, above=0),
)  # fmt: skip
HEAD = ("row", "workers", "records/s", "tokens/s", "MB/s", "cores", "steps")


def train_steps(config, dataset: Dataset, batches: Iterator[dict[str, Any]]) -> Iterator[None]:
    """Yield after each train step. The steps use a few batches that stay on the device."""
    import jax

    from training.program import build_program

    program = build_program(config, dataset.spec, make_mesh(config))
    kept = [jax.device_put(next(batches), program.batch_sharding) for _ in range(8)]
    state = program.initialize()
    step = program.train_step.lower(state, kept[0]).compile()
    while True:
        for batch in kept:
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            yield


def turn(one: Iterator[Any], seconds: float) -> tuple[float, float]:
    """Return the wall seconds and the CPU seconds per item of an iterator.

    Before the measurement, items are taken for `seconds` / 4, to use up those that were prefetched.
    """
    until = time.perf_counter() + seconds / 4
    next(one)
    while time.perf_counter() < until:
        next(one)
    count, began, cpu = 0, time.perf_counter(), time.process_time()
    while not count or time.perf_counter() - began < seconds:
        next(one)
        count += 1
    return (time.perf_counter() - began) / count, (time.process_time() - cpu) / count


def write_jpegs(folder: Path, count: int = 64) -> Path:
    """Write `count` noisy JPEGs in two class folders; return the folder."""
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (47, 63, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375)), np.float64)
        noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(path, quality=90)
    return folder


def measure(name: str, arguments: Any, folder: Path) -> Iterator[tuple[str, ...]]:
    """Measure a row; yield its lines of the table, one for each number of workers."""
    recipe, fields = ROWS[name]
    jpegs = write_jpegs(folder / "jpegs") if name == "jpegs" else ""
    places = {"text": arguments.text, "docs": ROOT / "docs", "jpegs": jpegs}
    fields = {key: value.format(**places) for key, value in fields.items()}
    fields |= {"data.cache_dir": str(folder / "cache")} | arguments.overrides
    config = load_config(ROOT / f"configs/{recipe}.py", fields)
    set_environment(config)
    dataset = prepare(config.data)
    kept = {"kept_bytes": 0} if name == "on_disk" else {}
    size = config.data.global_batch_size
    batches = Batches(dataset.splits["train"], global_batch_size=size, seed=0, shuffle=True, **kept)
    workers = arguments.workers.split(",")
    sides: dict[str, Iterator[Any]] = {n: stream(batches, 0, 2**40, int(n)) for n in workers}
    example = batches[0]
    megabytes = sum(array.nbytes for array in example.values()) / 1e6
    length = config.data.sequence_length if "tokens" in example else 0
    sides["step"] = train_steps(config, dataset, sides[workers[0]])
    turns = {side: partial(turn, one, arguments.seconds) for side, one in sides.items()}
    times = take_turns(turns, arguments.rounds)
    for one in sides.values():
        if isinstance(one, Generator):
            one.close()
    middle = {side: [statistics.median(each) for each in zip(*found, strict=True)]
              for side, found in times.items()}  # fmt: skip
    for side in workers:
        seconds, cpu = middle[side]
        yield (
            f"`{name}`",
            side,
            f"{size / seconds:,.0f}",
            f"{size * length / seconds:,.0f}" if length else "",
            f"{megabytes / seconds:,.0f}",
            f"{cpu / seconds:.2f}",
            f"{middle['step'][0] / seconds:,.0f}",
        )


def main(argv: list[str]) -> None:
    """Measure the rows and print the table."""
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    print_head(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.row or ROWS:
            for line in measure(name, arguments, Path(folder)):
                print_row(line)


if __name__ == "__main__":
    run_verb(main)
