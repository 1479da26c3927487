"""Computes the metrics of a split: from the model's outputs, and from texts that it generates."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from inference.predictors.predictor import Prediction
from parallel.feeding import gather_batch, put_batch
from training.model_def import ModelDef

Tree = Any
Batch = Mapping[str, Any]


class SplitBatches(Protocol):
    """The batches of a split, with each example once. Implemented by
    `data.evaluation_batches.EvaluationBatches`.

    Iterating yields this process's rows of each global batch of `global_batch_size` rows.

    order: int64 [examples], the index in the split of each row's example, for the rows of the first
        global batch, then of the second, and so on. It ends before the rows that fill up the last
        batch.
    """

    @property
    def global_batch_size(self) -> int: ...

    @property
    def order(self) -> np.ndarray: ...

    def __iter__(self) -> Iterator[Batch]: ...


class BatchPredictor(Protocol):
    """Answers whole batches of an evaluation, and returns the references to compare with."""

    def predict_batch(self, module: nnx.Module, batch: Batch) -> list[Prediction]:
        """Return the answer for each row of a global batch, except rows of weight zero."""
        ...

    def references(self, batch: Batch) -> list[dict[str, str]]:
        """Return the known texts of each row that `predict_batch` answers: the right answer as
        `reference`, and perhaps others, such as `source`.

        batch: a global batch on the host.
        """
        ...


def evaluate(
    model_def: ModelDef,
    params: Tree,
    statistics: Tree,
    batches: SplitBatches,
    *,
    text_bytes: int | None = None,
    keep: Collection[str] | None = (),
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute the task's metrics on a split. Return them, and the per-example arrays named in
    `keep`.

    text_bytes: number of UTF-8 bytes of a text split.
    keep: names of arrays that the task outputs; None for all. Names that the task does not have are
        ignored.

    Every target counts once, on any number of devices: rows of weight zero, which fill up the last
    batch, are left out. The arrays are in the order of the split. The array `example`, the index of
    each example in the split, is added to them.
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
        in_split = np.argsort(outputs["example"])
        outputs = {name: values[in_split] for name, values in outputs.items()}
    return model_def.task.summarize(totals, text_bytes), outputs


def evaluate_split(
    model_def: ModelDef,
    params: Tree,
    statistics: Tree,
    batches_of: Callable[[int | None], SplitBatches],
    *,
    coded_bytes: int | None,
    keep: Collection[str] | None = (),
    batch_predictor: BatchPredictor | None = None,
    most_answers: int | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Compute the metrics and per-example arrays of a split, as `evaluate` does. With a
    `batch_predictor`, the model also generates texts: include their metrics, and the arrays of
    `answer_split`.

    batches_of(n): returns the batches of the first n examples, or of all for None.
    coded_bytes: the `text_bytes` of `evaluate`.
    keep: as in `evaluate`.
    most_answers: number of examples for which texts are generated; None for all.
    """
    metrics, outputs = evaluate(
        model_def,
        params,
        statistics,
        batches_of(None),
        text_bytes=coded_bytes,
        keep=keep,
    )
    if batch_predictor is None or most_answers == 0:
        return metrics, outputs
    batches = batches_of(most_answers)
    size, sharding = batches.global_batch_size, model_def.batch_sharding
    placed = (put_batch(rows, sharding, size) for rows in batches)
    module = model_def.bind(params, statistics)
    answers = answer_split(batch_predictor, module, placed, batches.order)
    task: Any = model_def.task  # a task with `text_metrics`
    written = task.text_metrics(answers["hypothesis"], answers["reference"])
    if not math.isfinite(metrics["loss"]):  # The texts were chosen by scores that are NaN.
        written = dict.fromkeys(written, math.nan)
    return metrics | written, outputs | answers


def answer_split(
    predictor: BatchPredictor,
    module: nnx.Module,
    batches: Iterable[Batch],
    order: np.ndarray,
) -> dict[str, np.ndarray]:
    """Answer each example of a split; return `reference`, `hypothesis`, `score` and other texts as
    arrays, in the order of the split.

    batches: global batches.
    order: as in `SplitBatches`.

    Rows of weight zero are left out.
    """
    rows: dict[int, dict[str, Any]] = {}
    start = 0
    for batch in batches:
        on_host = gather_batch(batch)
        weights = on_host["weights"].reshape(len(on_host["weights"]), -1)
        examples = order[start + np.flatnonzero(weights.any(axis=1))].tolist()
        answers, known = predictor.predict_batch(module, batch), predictor.references(on_host)
        for example, texts, answer in zip(examples, known, answers, strict=True):
            rows[example] = texts | {"hypothesis": answer.text, "score": answer.score}
        start += len(weights)
    in_order = [row for _, row in sorted(rows.items())]
    return {name: np.array([row[name] for row in in_order], object) for name in in_order[0]}
