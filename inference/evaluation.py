"""Metrics of a split, those of written answers included."""

import math
from collections.abc import Callable, Collection
from typing import Any

from inference.answers import Answerer, answer_split
from parallel.feeding import put_batch
from training.evaluation import SplitBatches, evaluate
from training.model_def import ModelDef

Tree = Any


def evaluate_split(
    model_def: ModelDef,
    params: Tree,
    statistics: Tree,
    batches_of: Callable[[int | None], SplitBatches],
    *,
    coded_bytes: int | None,
    keep: Collection[str] | None = (),
    answerer: Answerer | None = None,
    most_answers: int | None = None,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the metrics of a whole split, and of the task's per-example arrays those in `keep`.

    batches_of: gives the batches of the first examples, so many, or of all (None). coded_bytes:
    UTF-8 bytes of the split, for text. keep: None keeps all arrays; names that the task does not
    have are left out. With an `answerer` the metrics of what the model writes come too, and for
    each example its texts: of the first `most_answers` examples, or of all.
    """
    metrics, outputs = evaluate(
        model_def,
        params,
        statistics,
        batches_of(None),
        facts={"bytes": coded_bytes},
        keep=keep,
    )
    if answerer is None or most_answers == 0:
        return metrics, outputs
    batches = batches_of(most_answers)
    placed = (
        put_batch(rows, model_def.batch_sharding, batches.global_batch_size) for rows in batches
    )
    answers = answer_split(answerer, model_def.bind(params, statistics), placed, batches.order)
    written = model_def.task.text_metrics(answers["hypothesis"], answers["reference"])
    if not math.isfinite(metrics["loss"]):  # The search was among scores that are no numbers.
        written = dict.fromkeys(written, math.nan)
    return metrics | written, outputs | answers
