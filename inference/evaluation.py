"""Metrics of a split, those of written answers included."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from flax import nnx

from inference.predictors.predictor import Prediction
from parallel.feeding import everywhere, put_batch
from training.evaluation import SplitBatches, evaluate
from training.model_def import ModelDef

Tree = Any
Batch = Mapping[str, Any]


class BatchPredictor(Protocol):
    """Writes answers to whole batches, which are compared with the right ones."""

    def predict_batch(self, module: nnx.Module, batch: Batch) -> list[Prediction]:
        """Answer each row of a global batch that has weight."""
        ...

    def references(self, batch: Batch) -> list[dict[str, str]]:
        """Return for each such row the right answer, `reference`, and what else of it is a text;
        the batch is on the host."""
        ...


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
    """Return the metrics of a whole split, and of the task's per-example arrays those in `keep`.

    batches_of: gives the batches of the first examples, so many, or of all (None). coded_bytes:
    UTF-8 bytes of the split, for text. keep: None keeps all arrays; names that the task does not
    have are left out. With a `batch_predictor` come the metrics of what the model writes too, and
    for each example its texts: of the first `most_answers` examples, or of all.
    """
    metrics, outputs = evaluate(
        model_def,
        params,
        statistics,
        batches_of(None),
        facts={"bytes": coded_bytes},
        keep=keep,
    )
    if batch_predictor is None or most_answers == 0:
        return metrics, outputs
    batches = batches_of(most_answers)
    size, sharding = batches.global_batch_size, model_def.batch_sharding
    placed = (put_batch(rows, sharding, size) for rows in batches)
    module = model_def.bind(params, statistics)
    answers = answer_split(batch_predictor, module, placed, batches.order)
    written = model_def.task.text_metrics(answers["hypothesis"], answers["reference"])
    if not math.isfinite(metrics["loss"]):  # The search was among scores that are no numbers.
        written = dict.fromkeys(written, math.nan)
    return metrics | written, outputs | answers


def answer_split(
    predictor: BatchPredictor,
    module: nnx.Module,
    batches: Iterable[Batch],
    order: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return `reference`, `hypothesis`, `score`, and what else is a text, of each example that has
    weight, in the order of the split.

    batches: global ones. order: the number in the split of each of their rows.
    """
    rows: dict[int, dict[str, Any]] = {}
    start = 0
    for batch in batches:
        on_host = everywhere(batch)
        weights = on_host["weights"].reshape(len(on_host["weights"]), -1)
        examples = order[start + np.flatnonzero(weights.any(axis=1))].tolist()
        answers, known = predictor.predict_batch(module, batch), predictor.references(on_host)
        for example, texts, answer in zip(examples, known, answers, strict=True):
            rows[example] = texts | {"hypothesis": answer.text, "score": answer.score}
        start += len(weights)
    found = [row for _, row in sorted(rows.items())]
    return {name: np.array([row[name] for row in found], object) for name in found[0]}
