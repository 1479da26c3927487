"""The scaling of pixel values that image models use.

Axes: B batch, H height, W width, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from model.layers.sharding import constrain


def normalized(image_BHWC: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Convert images, uint8 0..255 or floats 0..1, to values 0..1 of `dtype`."""
    x_BHWC = image_BHWC.astype(dtype)
    if jnp.issubdtype(image_BHWC.dtype, jnp.integer):
        x_BHWC = x_BHWC / 255
    return constrain(x_BHWC, "batch", None, None, None)


def standardized(
    image_BHWC: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike
) -> jax.Array:
    """Convert images, uint8 0..255 or floats 0..1, to (x - mean) / std of `dtype`, where x are
    values 0..1.

    `mean`, `std`: one number for all channels, or one for each.
    """
    if len(mean) == len(std) == 1:
        return (1 / std[0]) * normalized(image_BHWC, dtype) - mean[0] / std[0]
    x_BHWC = normalized(image_BHWC, jnp.float32) - np.asarray(mean, np.float32)
    return (x_BHWC / np.asarray(std, np.float32)).astype(dtype)
