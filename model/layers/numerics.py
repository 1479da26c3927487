"""The dtypes of a model."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike

Precision = str | None
"""The argument `precision` of a product: `BFLOAT16_PRODUCTS`, or None."""

BFLOAT16_PRODUCTS = "BF16_BF16_F32"
"""The name of JAX's precision of products whose operands are rounded to bfloat16, with sums and
results in float32 (see `parallel/products.py`)."""


@dataclass(frozen=True)
class Numerics:
    """The dtypes that every layer of a model uses.

    `dtype`: the dtype of computation and activations.
    `param_dtype`: the dtype of the stored parameters.
    `products`: the dtype to which the operands of products of float32 arrays are rounded, float32
        or bfloat16. Products of other arrays are not affected.

    Statistics of norms, softmax and logits are always float32.
    """

    dtype: DTypeLike
    param_dtype: DTypeLike
    products: DTypeLike = jnp.float32

    @property
    def precision(self) -> Precision:
        """Return the `precision` of matrix products and convolutions."""
        rounded = self.dtype == jnp.float32 and self.products == jnp.bfloat16
        return BFLOAT16_PRODUCTS if rounded else None
