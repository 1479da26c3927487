"""Rows: what they make of arrays, there and back."""

from dataclasses import replace

import numpy as np
import pytest

from interop.families import FAMILIES
from interop.tables import Kernel, Reshape, Row, Transpose

TRANSFORMATIONS = {
    "same": (Reshape(), (3, 4), (3, 4)),
    "behind ones": (Reshape(leading_ones=2), (5,), (1, 1, 5)),
    "heads in one": (Reshape(flat=True), (3, 4), (12,)),
    "matrix": (Kernel(), (6, 8), (8, 6)),
    "to heads": (Kernel(), (6, 2, 4), (8, 6)),
    "from heads": (Kernel(inputs=2), (2, 4, 6), (6, 8)),
    "inputs first": (Kernel(inputs=2, inputs_first=True), (2, 4, 6), (8, 6)),
    "permuted": (Transpose((3, 2, 0, 1)), (2, 3, 4, 5), (5, 4, 2, 3)),
}


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_transformation_comes_back_and_knows_its_shapes(name):
    change, ours, theirs = TRANSFORMATIONS[name]
    assert change.their_shape(ours) == theirs
    there = change.to_theirs(numbers(*ours))
    assert there.shape == theirs
    np.testing.assert_array_equal(change.to_ours(there, ours), numbers(*ours))


def test_a_kernel_maps_as_theirs_does():
    theirs, x = numbers(8, 6), numbers(5, 6)
    ours = Kernel().to_ours(theirs, (6, 2, 4))
    found = np.einsum("bd,dnh->bnh", x, ours).reshape(5, 8)
    np.testing.assert_allclose(found, x @ theirs.T, rtol=1e-5)
    back, y = Kernel(inputs=2).to_ours(numbers(6, 8), (2, 4, 6)), numbers(5, 2, 4)
    expected = y.reshape(5, 8) @ numbers(6, 8).T
    np.testing.assert_allclose(np.einsum("bnh,nhd->bd", y, back), expected, rtol=1e-5)


def test_a_convolution_of_patches_is_a_product_with_each():
    theirs, picture = numbers(7, 3, 2, 2), numbers(1, 3, 4, 6)  # features, channels, rows, columns
    ours = Transpose((3, 2, 0, 1)).to_ours(theirs, (2, 2, 3, 7))
    patch = picture[0, :, 2:4, 4:6]
    expected = np.einsum("fchw,chw->f", theirs, patch)
    found = np.einsum("hwc,hwcf->f", patch.transpose(1, 2, 0), ours)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_of_ours_lie_side_by_side_in_one_of_theirs():
    row = Row(("query", "key", "value"), "c_attn", Kernel(inputs_first=True))
    ours = [numbers(6, 2, 4), 2 * numbers(6, 2, 4), numbers(6, 1, 4)]
    shapes = [part.shape for part in ours]
    theirs = row.to_theirs(ours)
    assert theirs.shape == row.their_shape(shapes) == (6, 20) and theirs.flags.c_contiguous
    np.testing.assert_array_equal(theirs[:, 8:16], ours[1].reshape(6, 8))
    for part, back in zip(ours, row.to_ours(theirs, shapes), strict=True):
        np.testing.assert_array_equal(part, back)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_name_stands_in_one_row(family):
    rows = FAMILIES[family].table.rows
    ours, theirs = [name for row in rows for name in row.ours], [row.theirs for row in rows]
    assert len(set(ours)) == len(ours) and len(set(theirs)) == len(theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_of_a_layer_stand_on_both_sides(family):
    for row in FAMILIES[family].table.rows:
        sides = [replace(row, theirs="").placeholders, replace(row, ours=()).placeholders]
        assert all(sides) or not any(sides), row
