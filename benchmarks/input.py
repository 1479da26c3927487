"""How fast batches come: the whole input of a run, from prepared data to what the loop is given.

python benchmarks/input.py [--row=NAME ...] [--text=input.txt] [--workers=0,1,2] [--rounds=5]
                           [--seconds=1] [--config.section.field=value ...]

No model runs meanwhile. In turns, medians of the rounds: `data.stream` with each number of
`data.workers`, and for text what nanoGPT reads, random windows of as many tokens out of a
memory-mapped file (no epochs, no documents): by itself, and through PyTorch's DataLoader, where
torch is installed. MB of the arrays; `cores`: this process's CPU time over time, so that without
workers records a second over it are those of one core; `steps`: how many times faster the batches
come than the recipe's train step, which has its turns too, takes them; `ours`: how many times
faster ours are, without workers.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.recipes import load_config
from data.batches import Batches
from data.dataset import Dataset
from data.prefetch import stream
from data.preparation import prepare
from parallel.environment import set_environment
from parallel.mesh import make_mesh

ROOT = Path(__file__).parents[1]
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
"""A recipe and its overrides. `on_disk` keeps no record in memory, as if there were too many.
`jpegs`: of 500 by 375 pixels, decoded each time.
"""

FLAGS = (
    Flag("row", f"of {', '.join(ROWS)} (default: all)", repeatable=True,
                 choices=tuple(ROWS)),
    Flag("text", "a text file", default=str(ROOT / "README.md")),
    Flag("workers", "numbers of workers", default="0,1,2"),
    Flag("rounds", "turns of each", type=int, default=5, minimum=1),
    Flag("seconds", "of a turn", type=float, default=1.0, above=0),
)  # fmt: skip
HEAD = ("row", "reader", "records/s", "tokens/s", "MB/s", "cores", "steps", "ours")


class Windows:
    """Random windows of a memory-mapped file of tokens: their input and targets, int64 [T]."""

    def __init__(self, path: str, length: int):
        self._path, self._length = path, length

    def __len__(self) -> int:
        return len(self._tokens) - self._length

    def __getitem__(self, start: int):
        import torch

        window = torch.from_numpy(self._tokens[start : start + self._length + 1].astype(np.int64))
        return window[:-1], window[1:]

    @cached_property
    def _tokens(self):
        return np.memmap(self._path, np.uint16, "r")

    def __getstate__(self):
        return {"_path": self._path, "_length": self._length}


def random_windows(windows: Windows, batch_size: int) -> Iterator[dict[str, Any]]:
    """Batches as nanoGPT makes them."""
    import torch

    while True:
        starts = torch.randint(len(windows), (batch_size,)).tolist()
        tokens, targets = zip(*(windows[start] for start in starts), strict=True)
        yield {"tokens": torch.stack(tokens), "targets": torch.stack(targets)}


def loaded(windows: Windows, batch_size: int, workers: int) -> Iterator[dict[str, Any]]:
    """Batches of PyTorch's DataLoader."""
    import torch.utils.data

    context = "spawn" if workers else None
    sampler = torch.utils.data.RandomSampler(windows, replacement=True, num_samples=2**40)
    for tokens, targets in torch.utils.data.DataLoader(
        windows, batch_size, sampler=sampler, num_workers=workers, multiprocessing_context=context
    ):
        yield {"tokens": tokens, "targets": targets}


def readers(name: str, config, dataset: Dataset, folder: Path, workers: list[int]):
    """The readers of a row by name."""
    size = config.data.global_batch_size
    kept = {"kept_bytes": 0} if name == "on_disk" else {}
    split = dataset.splits["train"]
    batches = Batches(split, global_batch_size=size, seed=0, shuffle=True, **kept)
    found = {f"{n} workers": stream(batches, 0, 2**40, n) for n in workers}
    if dataset.tokenizer is not None and find_spec("torch"):
        stored = Batches(split, global_batch_size=256, seed=0, shuffle=False)
        every = (stored[number] for number in range(len(stored)))
        tokens = [batch["tokens"][batch["weights"] > 0] for batch in every]
        path = folder / f"{name}.bin"
        np.concatenate(tokens).astype(np.uint16).tofile(path)
        windows = Windows(str(path), config.data.sequence_length)
        found["nanoGPT's windows"] = random_windows(windows, size)
        found |= {f"DataLoader, {n} workers": loaded(windows, size, n) for n in workers}
    return found


def train_steps(config, dataset: Dataset, batches: Iterator[dict[str, Any]]) -> Iterator[None]:
    """Train steps on a few batches that are kept."""
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
    """Seconds and CPU seconds that each item takes; what had been read ahead is let by before."""
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
    """A folder of noisy JPEGs in two classes."""
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
    """The lines of a row."""
    recipe, fields = ROWS[name]
    jpegs = write_jpegs(folder / "jpegs") if name == "jpegs" else ""
    places = {"text": arguments.text, "docs": ROOT / "docs", "jpegs": jpegs}
    fields = {key: value.format(**places) for key, value in fields.items()}
    fields |= {"data.cache_dir": str(folder / "cache")} | arguments.overrides
    config = load_config(ROOT / f"configs/{recipe}.py", fields)
    set_environment(config)
    dataset = prepare(config.data)
    sides: dict[str, Iterator[Any]] = readers(
        name, config, dataset, folder, [int(n) for n in arguments.workers.split(",")]
    )
    first = next(iter(sides))
    example = next(sides[first])
    size, megabytes = len(example["weights"]), sum(x.nbytes for x in example.values()) / 1e6
    length = config.data.sequence_length if "tokens" in example else 0
    everything = sides | {"step": train_steps(config, dataset, sides[first])}
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in everything}
    for _ in range(arguments.rounds):
        for side, one in everything.items():
            times[side].append(turn(one, arguments.seconds))
    for one in everything.values():
        one.close()
    middle = {side: [statistics.median(x) for x in zip(*found, strict=True)]
              for side, found in times.items()}  # fmt: skip
    for side in sides:
        seconds, cpu = middle[side]
        peer = not side.endswith("workers") or side.startswith("DataLoader")
        yield (
            f"`{name}`",
            side,
            f"{size / seconds:,.0f}",
            f"{size * length / seconds:,.0f}" if length else "",
            f"{megabytes / seconds:,.0f}" if not peer else "",
            f"{cpu / seconds:.2f}",
            f"{middle['step'][0] / seconds:,.0f}",
            f"{seconds / middle[first][0]:.1f}" if peer else "",
        )


def main(argv: list[str]) -> None:
    """Prints the table."""
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.row or ROWS:
            for line in measure(name, arguments, Path(folder)):
                print(f"| {' | '.join(line)} |", flush=True)


if __name__ == "__main__":
    run_verb(main)
