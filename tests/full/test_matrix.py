"""Steps on every mesh are one device's, for what `make test` leaves out."""

import pytest

from tests.training import cells
from tests.training.test_matrix import OF_ONE_MIXER, THREE_AXES, check_two_steps


@pytest.mark.parametrize("cell", cells.CELLS)
def test_two_steps_on_every_mesh_equal_one_devices(cell):
    meshes = [mesh for mesh in list(cells.MESHES)[1:] if mesh != THREE_AXES or cell in OF_ONE_MIXER]
    check_two_steps(cell, meshes)
