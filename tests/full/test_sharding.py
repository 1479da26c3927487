"""Twenty steps of the recipes and meshes that `make test` leaves out."""

import itertools

import pytest

from tests.training import runs
from tests.training.test_sharding import MESHES, SOME_MESHES, SOME_RECIPES, check_twenty_steps

OTHERS = {*itertools.product(runs.NARROW, MESHES)} - {*itertools.product(SOME_RECIPES, SOME_MESHES)}


@pytest.mark.parametrize(("recipe", "mesh"), sorted(OTHERS))
def test_gradients_and_losses_of_twenty_steps_on_a_mesh_equal_one_devices(recipe, mesh):
    check_twenty_steps(recipe, mesh)
