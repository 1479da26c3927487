"""Metrics of a whole split: every target counted once, on any number of devices."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from parallel.feeding import put_batch
from training.model_def import ModelDef

Tree = Any


class SplitBatches(Protocol):
    """Batches that run through a split once (`data.evaluation_batches`).

    Each is this process's rows of a global batch of `global_batch_size`. order: the number in the
    split of each row of the global batches, one after the other; int64.
    """

    @property
    def global_batch_size(self) -> int: ...

    @property
    def order(self) -> np.ndarray: ...

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]: ...


def evaluate(
    model_def: ModelDef,
    params: Tree,
    statistics: Tree,
    batches: SplitBatches,
    *,
    facts: Mapping[str, Any],
    keep: Collection[str] | None = (),
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Return the metrics of the split that `batches` run through.

    Rows of weight zero, which fill up the last batch, count nowhere. Those of the task's
    per-example arrays that `keep` names (None: all) come back too, in the order of the split, and
    with them `example`, the number of each.
    """
    totals: dict[str, float] = {}
    kept: list[dict[str, np.ndarray]] = []
    size, pending = batches.global_batch_size, None

    def read(number, sums, outputs):
        for name, value in jax.device_get(sums).items():
            totals[name] = totals.get(name, 0.0) + float(value)
        wanted = {name: outputs[name] for name in outputs if keep is None or name in keep}
        if wanted:
            weights, wanted = jax.device_get((outputs["weights"], wanted))
            wanted.pop("weights", None)
            counted = np.flatnonzero(weights.reshape(size, -1).any(axis=1))
            numbers = {"example": batches.order[number * size + counted]}
            kept.append(numbers | {name: value[counted] for name, value in wanted.items()})

    for number, rows in enumerate(batches):
        batch = put_batch(rows, model_def.batch_sharding, size)
        result = model_def.evaluation_step(params, statistics, batch)
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
    return model_def.task.summarize(totals, facts), outputs
