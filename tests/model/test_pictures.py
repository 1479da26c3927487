"""The scaling of pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from model.pictures import normalized, standardized

IMAGES_BHWC = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_half_and_a_half_is_from_minus_one_to_one(dtype):
    ours = standardized(jnp.asarray(IMAGES_BHWC), (0.5,), (0.5,), dtype)
    np.testing.assert_array_equal(ours, 2 * normalized(jnp.asarray(IMAGES_BHWC), dtype) - 1)
    assert ours.dtype == dtype and ours.min() >= -1 and ours.max() <= 1


@pytest.mark.parametrize(
    ("mean", "std"),
    [(MEAN, STD), (MEAN, (0.5,)), ((0.5,), STD), ((0.2,), (0.3,)), ((0.0,), (1.0,))],
)
def test_channels_are_standardised_by_their_numbers(mean, std):
    expected = (IMAGES_BHWC / 255 - np.array(mean)) / np.array(std)
    for images in (IMAGES_BHWC, (IMAGES_BHWC / 255).astype(np.float32)):
        ours = standardized(jnp.asarray(images), mean, std, jnp.float32)
        np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_the_result_has_the_dtype_of_the_activations():
    ours = standardized(jnp.asarray(IMAGES_BHWC), MEAN, STD, jnp.bfloat16)
    exact = standardized(jnp.asarray(IMAGES_BHWC), MEAN, STD, jnp.float32)
    np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))
