"""The scaling of pixel values that every image model uses.

Axes: B batch, H height, W width, C channels.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from model.layers.sharding import constrain


def normalized(image_BHWC: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Convert images, uint8 0..255 or floats 0..1, to values 0..1 of `dtype`."""
    x_BHWC = image_BHWC.astype(dtype)
    if jnp.issubdtype(image_BHWC.dtype, jnp.integer):
        x_BHWC = x_BHWC / 255
    return constrain(x_BHWC, "batch", None, None, None)
