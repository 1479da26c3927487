"""The dtypes of a model."""

from dataclasses import dataclass

from jax.typing import DTypeLike


@dataclass(frozen=True)
class Numerics:
    """The dtypes that every layer of a model uses.

    `dtype`: the dtype of computation and activations.
    `param_dtype`: the dtype of the stored parameters.

    Statistics of norms, softmax and logits are always float32.
    """

    dtype: DTypeLike
    param_dtype: DTypeLike
