"""Each cell of the matrix on through a checkpoint, another mesh, and an evaluation."""

import jax
import numpy as np
import pytest

from inference.evaluation import evaluate
from reporting.report.machine import versions
from tests.training import cells, runs
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints, restore_state
from training.restore import find_checkpoint

BEFORE, AFTER = 2, 2
NEXT = {
    "one device": "fsdp=8",
    "data=8": "tensor=2,data=4",
    "fsdp=8": "one device",
    "tensor=2,data=4": "data=8",
}
"""The mesh on which a run of each goes on."""


def steps(program, state, batches):
    """The state after all of `batches`, and the loss of each."""
    step, losses = cells.compiled_step(program), []
    for batch in batches:
        state, metrics = cells.take_step(program, step, state, batch)
        losses.append(metrics["loss"])
    return state, losses


def evaluated(program, state) -> dict[str, float]:
    """Metrics of two batches, as of a split."""
    metrics, _ = evaluate(
        program.model_def,
        state.params,
        state.statistics,
        runs.RowBatches(cells.batches(program.config, 2)),
        text_bytes=100,
    )
    return metrics


@pytest.fixture(scope="module", params=[*cells.CELLS, *cells.SLOW_CELLS])
def cell(request):
    return request.param


@pytest.fixture(scope="module")
def whole(cell):
    """Losses and metrics of a run on one device that is never interrupted."""
    program = cells.build(cells.load(cell, "one device"))
    batches = cells.batches(program.config, BEFORE + AFTER)
    state, losses = steps(program, cells.place(program, cells.fresh(cell)), batches)
    return losses, evaluated(program, state)


@pytest.mark.parametrize("mesh", NEXT)
def test_a_checkpoint_goes_on_elsewhere_and_is_evaluated_alike(cell, whole, mesh, tmp_path):
    program = cells.build(cells.load(cell, mesh))
    batches = [*cells.batches(program.config, BEFORE + AFTER)]
    state = cells.place(program, cells.fresh(cell))
    state, first = steps(program, state, batches[:BEFORE])
    metric = BestMetric("loss", higher_is_better=False)
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep_last=1, keep_best=0, metric=metric)
    contents = {
        "config": program.config.model_dump(mode="json"),
        "data": {"fingerprint": "", "sizes": {}, "classes": None},
        "metrics": {},
        "history": {},
        "versions": versions(),
    }
    checkpoints.save(BEFORE, state, axes=program.model_def.graph.axes(), contents=contents)
    checkpoints.close()

    elsewhere = cells.build(cells.load(cell, NEXT[mesh]))
    step, manifest = find_checkpoint(tmp_path, print)
    assert step == BEFORE
    restored = restore_state(tmp_path / "checkpoints", step, manifest, elsewhere.abstract_state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))
    state, last = steps(elsewhere, restored, batches[BEFORE:])
    losses, metrics = whole
    np.testing.assert_allclose([*first, *last], losses, rtol=1e-3)
    for name, value in evaluated(elsewhere, state).items():
        np.testing.assert_allclose(value, metrics[name], rtol=2e-3, err_msg=name)
