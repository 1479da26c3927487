"""Every family on every modality: its steps on a mesh are one device's."""

import functools

import jax
import numpy as np
import pytest

from tests.selection import few_of
from tests.training import cells
from training.program import TrainProgram

STEPS = 2
ROUNDING = 1e-9
"""A millionth of a step's length: so little moves a parameter whose gradient is zero but for
rounding, such as the bias of the queries of additive attention at its start."""


def course(
    cell: str, program: TrainProgram, step: jax.stages.Compiled
) -> tuple[list[float], list[np.ndarray]]:
    """The losses of the steps, and the parameters after the first.

    After the second, what lies at the edge of a rectifier or of a maximum may have fallen to the
    other side.
    """
    losses, moved = [], []
    state = cells.place(program, cells.fresh(cell))
    for batch in cells.batches(program.config, STEPS):
        state, metrics = cells.take_step(program, step, state, batch)
        assert metrics["skipped"] == 0
        losses.append(metrics["loss"])
        moved = moved or jax.device_get(jax.tree.leaves(state.params))
    return losses, moved


THREE_AXES = "data=2,fsdp=2,tensor=2"
"""The mesh that is tested here; tests/full tests all."""

OF_ONE_MIXER = [cell for cell in cells.CELLS if cell.split(",")[0] in {*cells.MIXERS} - {"mixed"}]
"""Cells with a single kind of mixer: tests/full tests them."""


FEW = ("mixed, text pairs", "rnn, labelled text", "conformer, transcripts")


@pytest.mark.parametrize(
    "cell", few_of([cell for cell in cells.CELLS if cell not in OF_ONE_MIXER], *FEW)
)
def test_two_steps_on_a_mesh_of_three_axes_equal_one_devices(cell):
    check_two_steps(cell, [THREE_AXES], functools.partial(cells.compiled, cell))


def check_two_steps(cell: str, meshes: list[str], compiled: cells.Compiled) -> None:
    """Two steps on each of the meshes equal those on one device."""
    losses, parameters = course(cell, *compiled("one device"))
    for mesh in meshes:
        others, moved = course(cell, *compiled(mesh))
        np.testing.assert_allclose(others, losses, rtol=1e-4, err_msg=mesh)
        for one, other in zip(parameters, moved, strict=True):
            tolerance = max(1e-4 * np.abs(one).max(), ROUNDING)
            np.testing.assert_allclose(other, one, rtol=0, atol=tolerance, err_msg=mesh)
    assert len(set(losses)) == STEPS
