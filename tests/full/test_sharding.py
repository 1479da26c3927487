"""Twenty steps of four recipes on the meshes that `make test` leaves out."""

import pytest

from tests.training import runs
from tests.training.test_sharding import MESHES, SOME_MESHES, check_twenty_steps


@pytest.mark.parametrize("mesh", [mesh for mesh in MESHES if mesh not in SOME_MESHES])
@pytest.mark.parametrize("recipe", runs.NARROW)
def test_gradients_and_losses_of_twenty_steps_on_a_mesh_equal_one_devices(recipe, mesh):
    check_twenty_steps(recipe, mesh)
