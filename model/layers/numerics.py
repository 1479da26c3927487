"""The dtypes of a model."""

from dataclasses import dataclass

from jax.typing import DTypeLike


@dataclass(frozen=True)
class Numerics:
    """The dtypes that every layer of a model uses.

    `dtype`: for computation and for the vectors between layers. `param_dtype`: for the stored
    parameters. Statistics, softmax and logits are always float32.
    """

    dtype: DTypeLike
    param_dtype: DTypeLike
