"""Metrics of a whole split: every target counted once, on any number of devices."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

import parallel
from training.program import Program

Tree = Any


def evaluate(
    program: Program,
    params: Tree,
    statistics: Tree,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    global_batch_size: int,
    facts: Mapping[str, Any],
    keep_outputs: bool = False,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of the split that `batches` (this process's rows) run through once.

    Rows of weight zero, which fill up the last batch, count nowhere. With `keep_outputs` the
    task's per-example arrays come back too, in the order of the split, else {}.
    """
    totals: dict[str, float] = {}
    kept: list[dict[str, np.ndarray]] = []
    pending = None

    def read(sums, outputs):
        for name, value in jax.device_get(sums).items():
            totals[name] = totals.get(name, 0.0) + float(value)
        if keep_outputs:
            outputs = jax.device_get(outputs)
            full = outputs.pop("weights").reshape(global_batch_size, -1).any(axis=1)
            kept.append({name: value[full] for name, value in outputs.items()})

    for rows in batches:
        batch = parallel.put_batch(rows, program.batch_sharding, global_batch_size)
        result = program.evaluation_step(params, statistics, batch)
        # One batch late, so that the device never waits for the host.
        if pending is not None:
            read(*pending)
        pending = result
    if pending is not None:
        read(*pending)
    outputs = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]} if kept else {}
    return program.task.summarize(totals, facts), outputs


def evaluation_batch_size(program: Program) -> int:
    """The training batch, rounded up to what the mesh divides evenly."""
    shards = math.prod(program.mesh.shape[axis] for axis in program.config.mesh.rules.batch)
    return -(-program.config.data.global_batch_size // shards) * shards
