"""The first step of every picture model.

Axes: B batch, H height, W width, C channels.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from model.layers.sharding import constrain


def normalized(image_BHWC: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Scale pictures, uint8 0..255 or floats 0..1, to 0..1 in `dtype`."""
    x_BHWC = image_BHWC.astype(dtype)
    if jnp.issubdtype(image_BHWC.dtype, jnp.integer):
        x_BHWC = x_BHWC / 255
    return constrain(x_BHWC, "batch", None, None, None)
