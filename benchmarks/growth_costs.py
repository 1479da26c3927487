"""Measures what a train step, a set of records and a checkpoint cost, in time and memory.

Each function returns costs by name: seconds, bytes, or counts. `growth.py` calls each in a new
process.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.measuring import ROOT, in_own_process, overrides
from configs.reading.recipes import load_config

RECIPE = ROOT / "configs/python_stdlib.py"
WINDOW = 16
"""Tokens in a record of `records_cost`."""

WARM_UP, MIN_STEPS, STEP_SECONDS = 2, 3, 1.0
BATCHES, ROUNDS = 100, 5
"""Batches that are read in a turn, and turns, of `records_cost`."""

Costs = dict[str, float]
Fields = Mapping[str, object]


# ---- A train step.


def step_cost(fields: Fields, vocabulary_size: int) -> Costs:
    """Return the costs of the train step of a decoder on one device.

    fields: overrides of `configs/python_stdlib.py`.

    `step`: median seconds of a step. `compile`: seconds to trace and compile it. `state`,
    `temporaries`: bytes of its arguments, and of what it needs in addition, by the compiler.
    `peak`: peak bytes of this process during the steps.
    """
    program, spec = decoder_program(fields, vocabulary_size)
    import jax

    from benchmarks.invented import batch

    rows = jax.device_put(batch(program.config, spec, 0), program.batch_sharding)
    began = time.perf_counter()
    step = program.train_step.lower(program.abstract_state, rows).compile()
    compiled = time.perf_counter() - began
    state, seconds = program.initialize(), list[float]()
    jax.block_until_ready(state)
    _forget_peak()
    while len(seconds) < WARM_UP + MIN_STEPS or sum(seconds[WARM_UP:]) < STEP_SECONDS:
        began = time.perf_counter()
        state, metrics = step(state, rows)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    memory = step.memory_analysis()
    return {
        "step": statistics.median(seconds[WARM_UP:]),
        "compile": compiled,
        "state": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "peak": _peak_bytes(),
    }


def decoder_program(fields: Fields, vocabulary_size: int):
    """Return the train program of a decoder on one device, and the `DataSpec` of its batches."""
    from benchmarks.invented import invented_spec
    from parallel.environment import set_environment
    from parallel.mesh import make_mesh

    texts = {name: str(value) for name, value in fields.items()}
    config = load_config(RECIPE, texts | {"mesh.data": "1"}, inputs=False)
    set_environment(config)
    import jax

    from parallel.products import select_products
    from training.attention import working_attention
    from training.program import build_program

    mesh = make_mesh(config, jax.devices()[:1])
    select_products(config, mesh)
    attention = working_attention(config, mesh, print)
    spec = invented_spec(config, vocabulary_size=vocabulary_size)
    return build_program(config, spec, mesh, attention=attention), spec


def _forget_peak() -> None:
    """Set the peak memory of this process, as Linux counts it, to its present memory."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory_bytes(name: str) -> int:
    """Return a memory count of this process in bytes: VmHWM (the peak) or VmRSS (at present)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def _peak_bytes() -> int:
    return _memory_bytes("VmHWM")


# ---- A set of records.


def records_cost(count: int) -> Costs:
    """Return the costs of a set of `count` records, windows of `WINDOW` bytes of a text.

    `preparation`: seconds to write the records. `bytes`: of their file. `start`: seconds from
    `train.py` to its first step, with the records and the compiled step in the cache; the less of
    two. `batch`, `batch_on_disk`: median seconds of a batch of 32, as a run reads it and with no
    records kept in memory. `memory`: bytes that a run's reader takes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fields = {
            "data.path": _write_text(folder / "text.txt", count * WINDOW),
            "data.cache_dir": folder / "cache",
            "data.tokenizer.kind": "bytes",
            "data.validation_fraction": 0,
            "data.sequence_length": WINDOW,
            "data.global_batch_size": 32,
            "task.sample_prompts": "()",
        }
        texts = {name: str(value) for name, value in fields.items()}
        time.sleep(4)  # The hash of a file that just changed is not kept (`FileStatCache`).
        costs = in_own_process(_prepare, texts)
        assert costs.pop("records") == count
        costs |= in_own_process(_read, texts, None)
        costs["batch_on_disk"] = in_own_process(_read, texts, 0)["batch"]
        costs["start"] = _start_seconds(folder, texts)
        return costs


def _write_text(path: Path, size: int) -> Path:
    """Write a text of `size` random letters, with a space after every five."""
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        for start in range(0, size, 6 * 2**18):
            letters = random.integers(97, 123, min(6 * 2**18, size - start), np.uint8)
            letters[5::6] = ord(" ")
            file.write(letters.tobytes())
    return path


def _dataset(texts: dict[str, str]):
    from data.preparation import prepare

    return prepare(load_config(ROOT / "configs/shakespeare_char.py", texts).data)


def _prepare(texts: dict[str, str]) -> Costs:
    began = time.perf_counter()
    train = _dataset(texts).splits["train"]
    seconds = time.perf_counter() - began
    size = train.path.stat().st_size
    return {"records": train.examples, "preparation": seconds, "bytes": size}


def _read(texts: dict[str, str], kept_bytes: int | None) -> Costs:
    from data.batches import Batches

    split = _dataset(texts).splits["train"]
    kept = {} if kept_bytes is None else {"kept_bytes": kept_bytes}
    before = _memory_bytes("VmRSS")
    batches = Batches(split, global_batch_size=32, seed=0, shuffle=True, **kept)
    batches[0]
    seconds = []
    for turn in range(ROUNDS):
        began = time.perf_counter()
        for number in range(turn * BATCHES, (turn + 1) * BATCHES):
            batches[number]
        seconds.append((time.perf_counter() - began) / BATCHES)
    memory = _memory_bytes("VmRSS") - before
    return {"batch": statistics.median(seconds), "memory": memory}


def _start_seconds(folder: Path, texts: dict[str, str]) -> float:
    from benchmarks.startup import seconds_to_first_step

    fields = {"train.steps": "1000000", "train.log_every_steps": "1"}
    flags = overrides(texts | fields)
    starts = [
        seconds_to_first_step(folder / f"run-{number}", folder / "cache", flags)
        for number in range(3)
    ]
    return min(starts[1:])  # The first one compiles the step.


# ---- A checkpoint.


def checkpoint_cost(width: int) -> Costs:
    """Return the costs of a checkpoint of a decoder of this width, with its optimizer's state.

    `bytes`: of its files. `save`: seconds until training goes on. `written`: until its manifest is
    on the disk. `verify`, `restore`: seconds to compare all hashes, and to read the state. Medians
    of `MIN_STEPS` turns.
    """
    program, _ = decoder_program({"model.width": width, "model.depth": 2}, vocabulary_size=256)
    import jax

    from training.arrays import restore_state
    from training.best_metric import BestMetric
    from training.checkpoints import Checkpoints, find_good_step
    from training.manifest import read_manifest

    state = jax.block_until_ready(program.initialize())
    contents = {
        "config": program.config.model_dump(mode="json"), "data": {}, "metrics": {},
        "history": {}, "versions": {},
    }  # fmt: skip
    axes = program.model_def.graph.axes()
    turns = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints = Checkpoints(
            folder, keep_last=1, keep_best=0, metric=BestMetric.of(program.config)
        )
        for step in range(1, MIN_STEPS + 1):
            began = time.perf_counter()
            checkpoints.save(step, state, axes=axes, contents=contents)
            saved = time.perf_counter() - began
            checkpoints.wait()
            written = time.perf_counter() - began
            verify = _seconds(lambda: find_good_step(folder, print))
            manifest = read_manifest(folder / str(step))
            restore = _seconds(
                lambda step=step, manifest=manifest: jax.block_until_ready(
                    restore_state(folder, step, manifest, program.abstract_state)
                )
            )
            turns.append([saved, written, verify, restore])
        checkpoints.close()
        files = [path for path in (folder / str(MIN_STEPS)).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        shutil.rmtree(folder / str(MIN_STEPS))
    names = ("save", "written", "verify", "restore")
    medians = map(statistics.median, zip(*turns, strict=True))
    return {"bytes": size, **dict(zip(names, medians, strict=True))}


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
