"""Steps on a mesh of three axes are one device's, for every kind of mixer alone."""

import pytest

from tests.training.test_matrix import OF_ONE_MIXER, check_two_steps


@pytest.mark.parametrize("cell", OF_ONE_MIXER)
def test_two_steps_on_a_mesh_of_three_axes_equal_one_devices(cell):
    check_two_steps(cell)
