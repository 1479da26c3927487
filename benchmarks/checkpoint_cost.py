"""Measures what a checkpoint costs: its save, its verification, its restore, and the memory for it.

python benchmarks/checkpoint_cost.py [--megabytes=1000] [--repeats=3] [--folder=DIR]
python benchmarks/checkpoint_cost.py --loop=100 [--tokens=512] [--repeats=3] [--folder=DIR]

A state of random float32 arrays is saved, verified and restored, on one CPU device, each time in a
new process. `save`: seconds until training goes on; `written`: until the manifest is on the disk;
`verify`: to compare all files with their hashes; `restore`: to read all arrays. The files are in
the page cache. Medians of the repeats are printed. `memory` is the highest resident memory of the
restoring process, without what it had before. For comparison, the same bytes are hashed by other
functions of eight threads.

With --loop, a decoder of so many million parameters is trained with AdamW, on the default device,
on random batches of so many tokens. Steps without a save take turns with steps after one, until its
manifest is on the disk. `step`: seconds of a step without a save; `blocked`: seconds until training
goes on after a save; `extra`: seconds by which a save, with all that it does in the background,
makes the loop longer; `share`: how much longer this makes a loop with one save per 50 steps.
"""

import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from configs.reading.command_line import Flag, parse_command_line, run_verb

FLAGS = (
    Flag("megabytes", "size of the state", type=int, default=1000, minimum=1),
    Flag("repeats", "how often each part is measured", type=int, default=3, minimum=1),
    Flag("folder", "where the checkpoints are written; by default, a temporary folder"),
    Flag("loop", "million parameters of a model that is trained and saved", type=int, minimum=1),
    Flag("tokens", "tokens in a batch of --loop", type=int, default=512, minimum=1),
    Flag("part", "what a process of this program does", choices=("save", "restore", "hash")),
)
ARRAYS = 24
"""Arrays of equal size in the state."""

STEP = 1

STEPS_PER_SAVE = 50
LEAST_STEPS = 4
"""Steps that are timed together in the loop."""


def main(argv: Sequence[str]) -> None:
    """Measure and print the costs."""
    arguments = parse_command_line(argv, FLAGS)
    if arguments.part is not None:
        part = {"save": save, "restore": restore, "hash": hash_alike}[arguments.part]
        print(json.dumps(part(Path(arguments.folder), arguments.megabytes)))
        return
    found: dict[str, list[float]] = {}
    if arguments.loop is not None:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            found = loop(Path(folder), arguments.loop, arguments.tokens, arguments.repeats)
        print_figures(found)
        share = statistics.median(found["extra"]) / statistics.median(found["step"])
        print(f"   share {share / STEPS_PER_SAVE:8.1%}  (one save per {STEPS_PER_SAVE} steps)")
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for repeat in range(arguments.repeats):
            for part in ("save", "restore", "hash"):
                place = f"{folder}/{repeat}/checkpoints"
                for name, figure in measure(part, place, arguments.megabytes).items():
                    found.setdefault(name, []).append(figure)
    median = {name: statistics.median(figures) for name, figures in found.items()}
    print(f"{arguments.megabytes:,} MB in {ARRAYS} arrays, {os.cpu_count()} cores")
    print_figures(found)
    print(f"verify / restore: {median['verify'] / median['restore']:.2f}")


def print_figures(found: Mapping[str, Sequence[float]]) -> None:
    """Print a line for each name: the median and the spread of its figures."""
    for name, figures in found.items():
        unit = "MB" if name == "memory" else "s"
        spread = f"{min(figures):.3g} to {max(figures):.3g}"
        print(f"{name:>8} {statistics.median(figures):8.3g} {unit}  ({spread})")


def measure(part: str, folder: str, megabytes: int) -> dict[str, float]:
    """Return what a new process measures."""
    flags = [f"--part={part}", f"--folder={folder}", f"--megabytes={megabytes}"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, __file__, *flags],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def save(folder: Path, megabytes: int) -> dict[str, float]:
    """Save a state of `megabytes`; return `save` and `written`."""
    import jax
    import jax.numpy as jnp

    from training.best_metric import BestMetric
    from training.checkpoints import Checkpoints
    from training.step import TrainState

    rows = max(1, megabytes * 10**6 // (ARRAYS * 1024 * 4))
    keys = jax.random.split(jax.random.key(0), ARRAYS)
    params = {str(n): jax.random.normal(key, (rows, 1024)) for n, key in enumerate(keys)}
    state = TrainState(
        step=jnp.int32(STEP),
        skipped=jnp.int32(0),
        params=params,
        statistics={},
        optimizer=(),
        ema=None,
        ema_statistics=None,
    )
    jax.block_until_ready(state)
    checkpoints = Checkpoints(
        folder, keep_last=1, keep_best=0, metric=BestMetric("loss", higher_is_better=False)
    )
    contents = {"config": {}, "data": {}, "metrics": {}, "history": {}, "versions": {}}
    began = time.perf_counter()
    checkpoints.save(STEP, state, axes={}, contents=contents)
    saved = time.perf_counter() - began
    checkpoints.require(STEP)
    written = time.perf_counter() - began
    checkpoints.close()
    return {"save": saved, "written": written}


def restore(folder: Path, megabytes: int) -> dict[str, float]:
    """Verify and restore the step; return `verify`, `restore` and `memory`."""
    import jax

    from training.arrays import restore_fields
    from training.checkpoints import find_good_step
    from training.trees import nested

    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    began = time.perf_counter()
    good = find_good_step(folder, print)
    verified = time.perf_counter() - began
    assert good is not None
    step, manifest = good
    target = {
        name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"], sharding=sharding)
        for name, leaf in manifest["leaves"].items()
        if name.startswith("params.")
    }
    before = peak_megabytes()
    began = time.perf_counter()
    jax.block_until_ready(restore_fields(folder, step, manifest, "model", nested(target)))
    seconds = time.perf_counter() - began
    return {"verify": verified, "restore": seconds, "memory": peak_megabytes() - before}


def loop(folder: Path, millions: int, tokens: int, repeats: int) -> dict[str, list[float]]:
    """Train and save a decoder; return `step`, `blocked` and `extra` of each repeat."""
    from benchmarks.growth_costs import decoder_program
    from benchmarks.invented import batch

    width = 768 if millions >= 10 else 128
    fields = {
        "model.width": width,
        "model.depth": max(1, round(millions * 1e6 / (12 * width**2))),
        "data.sequence_length": tokens,
        "data.global_batch_size": 1,
    }
    program, spec = decoder_program(fields, vocabulary_size=1024)
    import jax

    from training.best_metric import BestMetric
    from training.checkpoints import Checkpoints

    print(f"{program.model_def.parameter_count:,} parameters, {jax.devices()[0].device_kind}")
    rows = jax.device_put(batch(program.config, spec, 0), program.batch_sharding)
    train_step = program.train_step.lower(program.abstract_state, rows).compile()
    state, step = program.initialize(), 0
    metric = BestMetric("loss", higher_is_better=False)
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=1, keep_best=0, metric=metric)
    contents = {"config": {}, "data": {}, "metrics": {}, "history": {}, "versions": {}}

    def run(until: Callable[[int], bool]) -> tuple[float, int]:
        """Run steps until the number of them is enough; return their seconds and their number."""
        nonlocal state, step
        began, count, before = time.perf_counter(), 0, None
        while not until(count):
            state, metrics = train_step(state, rows)
            jax.block_until_ready(before)  # As in a run, the metrics are read a step later.
            count, step, before = count + 1, step + 1, metrics
        jax.block_until_ready(state)
        return time.perf_counter() - began, count

    def is_saved(count: int) -> bool:
        checkpoints.check()
        return count >= LEAST_STEPS and checkpoints.saved_step == saved_at

    found: dict[str, list[float]] = {"step": [], "blocked": [], "extra": []}
    run(lambda count: count == LEAST_STEPS)
    for _ in range(repeats):
        seconds, count = run(lambda count: count == LEAST_STEPS)
        found["step"].append(seconds / count)
        saved_at, began = step, time.perf_counter()
        axes = program.model_def.graph.axes()
        checkpoints.save(step, state, axes=axes, contents=contents)
        found["blocked"].append(time.perf_counter() - began)
        seconds, count = run(is_saved)
        found["extra"].append(found["blocked"][-1] + seconds - count * found["step"][-1])
    checkpoints.close()
    return found


def hash_alike(folder: Path, megabytes: int) -> dict[str, float]:
    """Hash all files of the step in pieces of 16 MiB by other functions; return the seconds."""
    import zlib

    import xxhash

    piece = 16 << 20
    files = [path for path in (folder / str(STEP)).rglob("*") if path.is_file()]
    pieces = [(path, at) for path in files for at in range(0, path.stat().st_size, piece)]

    def read(path: Path, at: int) -> bytes:
        with path.open("rb", buffering=0) as file:
            file.seek(at)
            return file.read(piece)

    functions = {
        "reading": lambda data: None,
        "xxh3_128": lambda data: xxhash.xxh3_128(data).digest(),
        "xxh3_64": lambda data: xxhash.xxh3_64(data).digest(),
        "crc32": zlib.crc32,
        "sha256": lambda data: hashlib.sha256(data).digest(),
        "blake2b": lambda data: hashlib.blake2b(data).digest(),
    }
    seconds = {}
    for name, function in functions.items():
        with ThreadPoolExecutor(8) as pool:
            began = time.perf_counter()
            list(pool.map(lambda one, function=function: function(read(*one)), pieces))
            seconds[name] = time.perf_counter() - began
    return seconds


def peak_megabytes() -> float:
    """Return the highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    run_verb(main)
