"""Each cell of the matrix: its steps on every mesh are one device's, and it goes on through a
checkpoint, another mesh, and an evaluation."""

import functools

import jax
import numpy as np
import pytest

from inference.evaluation import evaluate
from reporting.report.machine import versions
from tests.training import cells, runs
from tests.training.test_matrix import OF_ONE_MIXER, THREE_AXES, check_two_steps
from training.arrays import restore_state
from training.best_metric import BestMetric
from training.checkpoints import Checkpoints
from training.restore import find_checkpoint

BEFORE, AFTER = 2, 2
NEXT = {
    "one device": "fsdp=8",
    "data=8": "tensor=2,data=4",
    "fsdp=8": "one device",
    "tensor=2,data=4": "data=8",
}
"""The mesh on which a run of each goes on."""


def steps(compiled, state, batches):
    """The state after all of `batches`, and the loss of each."""
    program, step = compiled
    losses = []
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
def compiled(cell):
    """Gives the program of a mesh and its compiled step, which every test of the cell takes."""
    return functools.cache(functools.partial(cells.compiled, cell))


@pytest.fixture(scope="module")
def whole(cell, compiled):
    """Losses and metrics of a run on one device that is never interrupted."""
    program, _ = compiled("one device")
    batches = cells.batches(program.config, BEFORE + AFTER)
    state = cells.place(program, cells.fresh(cell))
    state, losses = steps(compiled("one device"), state, batches)
    return losses, evaluated(program, state)


def test_two_steps_on_every_mesh_equal_one_devices(cell, compiled):
    meshes = [mesh for mesh in list(cells.MESHES)[1:] if mesh != THREE_AXES or cell in OF_ONE_MIXER]
    check_two_steps(cell, meshes, compiled)


@pytest.mark.parametrize("mesh", NEXT)
def test_a_checkpoint_goes_on_elsewhere_and_is_evaluated_alike(
    cell, whole, compiled, mesh, tmp_path
):
    program, _ = compiled(mesh)
    batches = [*cells.batches(program.config, BEFORE + AFTER)]
    state = cells.place(program, cells.fresh(cell))
    state, first = steps(compiled(mesh), state, batches[:BEFORE])
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

    elsewhere, _ = compiled(NEXT[mesh])
    step, manifest = find_checkpoint(tmp_path, print)
    assert step == BEFORE
    restored = restore_state(tmp_path / "checkpoints", step, manifest, elsewhere.abstract_state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(state))
    state, last = steps(compiled(NEXT[mesh]), restored, batches[BEFORE:])
    losses, metrics = whole
    np.testing.assert_allclose([*first, *last], losses, rtol=1e-3)
    for name, value in evaluated(elsewhere, state).items():
        np.testing.assert_allclose(value, metrics[name], rtol=2e-3, err_msg=name)
