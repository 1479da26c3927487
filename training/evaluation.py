"""Metrics of a whole split: every target counted once, on any number of devices."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from parallel.feeding import put_batch
from training.program import TrainProgram

Tree = Any


def evaluate(
    program: TrainProgram,
    params: Tree,
    statistics: Tree,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    global_batch_size: int,
    order: np.ndarray,
    facts: Mapping[str, Any],
    keep: Collection[str] | None = (),
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of the split that `batches` (this process's rows) run through once.

    order: the number in the split of each row. Rows of weight zero, which fill up the last batch,
    count nowhere. Those of the task's per-example arrays that `keep` names (None: all) come back
    too, in the order of the split, and with them `example`, the number of each.
    """
    totals: dict[str, float] = {}
    kept: list[dict[str, np.ndarray]] = []
    pending = None

    def read(number, sums, outputs):
        for name, value in jax.device_get(sums).items():
            totals[name] = totals.get(name, 0.0) + float(value)
        wanted = {name: outputs[name] for name in outputs if keep is None or name in keep}
        if wanted:
            weights, wanted = jax.device_get((outputs["weights"], wanted))
            wanted.pop("weights", None)
            there = np.flatnonzero(weights.reshape(global_batch_size, -1).any(axis=1))
            numbers = {"example": order[number * global_batch_size + there]}
            kept.append(numbers | {name: value[there] for name, value in wanted.items()})

    for number, rows in enumerate(batches):
        batch = put_batch(rows, program.batch_sharding, global_batch_size)
        result = program.evaluation_step(params, statistics, batch)
        # One batch late, so that the device never waits for the host.
        if pending is not None:
            read(*pending)
        pending = (number, *result)
    if pending is not None:
        read(*pending)
    outputs = {name: np.concatenate([k[name] for k in kept]) for name in kept[0]} if kept else {}
    if outputs:
        places = np.argsort(outputs["example"])
        outputs = {name: values[places] for name, values in outputs.items()}
    return program.task.summarize(totals, facts), outputs


def evaluation_batch_size(program: TrainProgram) -> int:
    """The training batch, rounded up to what the mesh divides evenly."""
    shards = math.prod(program.mesh.shape[axis] for axis in program.config.mesh.rules.batch)
    return -(-program.config.data.global_batch_size // shards) * shards
