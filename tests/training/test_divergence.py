"""What is not finite is no result: it is never right, and no run ends well on it."""

import json
import math

import jax
import numpy as np
import pytest

from configs.json_text import json_text
from inference.evaluation import evaluate
from parallel.feeding import put_batch
from tests.selection import few_of
from tests.training import cells, runs
from training.divergence import Diverged, check_skipped, not_finite

SCORED = (
    "attention, text",
    "attention, pictures",
    "mixed, missing tokens",
    "mixed, labelled text",
    "mixed, labelled sound",
    "conformer, transcripts",
)


@pytest.mark.parametrize("cell", few_of(SCORED, "attention, text", "conformer, transcripts"))
@pytest.mark.parametrize("spoiled", [False, True])
def test_a_model_whose_scores_are_no_numbers_has_no_metrics(cell, spoiled):
    """Nor is it right where the right answer is the first class, which argmax makes of NaN."""
    config = cells.load(cell, "one device")
    program = cells.build(config)
    rows = {name: np.array(value) for name, value in next(cells.batches(config, 1)).items()}
    for name in ("label", "targets"):
        if name in rows:
            rows[name] = np.zeros_like(rows[name])
    state = program.initialize()
    factor = np.nan if spoiled else 1.0
    params = jax.tree.map(lambda leaf: leaf * factor, state.params)
    size = config.data.global_batch_size
    batches = runs.RowBatches([rows])
    model_def = program.model_def
    metrics, _ = evaluate(model_def, params, state.statistics, batches, text_bytes=9)
    counts = {"examples", "too_short"}
    assert metrics["examples"] == size
    lost = set(not_finite(metrics))
    assert lost == (metrics.keys() - counts if spoiled else set())
    batch = put_batch(rows, program.batch_sharding, size)
    module = program.model_def.bind(params, state.statistics)
    sums = program.model_def.task.loss_sums(module, batch, dropout_key=jax.random.key(0))
    assert math.isnan(sums.get("accuracy", sums["loss"])) == spoiled


@pytest.mark.parametrize(
    ("skipped", "step", "ends", "diverged"),
    [
        (3, 9, False, True),
        (2, 9, False, False),
        (2, 9, True, True),
        (1, 9, True, False),
        (1, 1, True, True),
        (0, 9, True, False),
    ],
)
def test_a_run_has_diverged_by_a_limit_or_by_its_end(skipped, step, ends, diverged):
    try:
        check_skipped(skipped, step, 3, -1, ends=ends)
    except Diverged as error:
        assert diverged and "Try a lower optimizer.learning_rate; there is no checkpoint" in str(
            error
        )
    else:
        assert not diverged


def test_results_are_json_whatever_the_numbers_are():
    value = {"loss": math.nan, "scores": [[1.0, math.inf], (-math.inf, 2)], "name": "nan", "n": 3}
    text = json_text(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "loss": None, "scores": [[1.0, None], [None, 2]], "name": "nan", "n": 3
    }  # fmt: skip
