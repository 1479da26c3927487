"""The dtypes of a model."""

from dataclasses import dataclass

from jax.typing import DTypeLike


@dataclass(frozen=True)
class Numerics:
    """The dtypes that every layer of a model takes.

    `dtype`: of the computation, and of the vectors between layers. `param_dtype`: of the
    parameters as they are stored. Statistics, softmax and logits are float32 whatever these are.
    """

    dtype: DTypeLike
    param_dtype: DTypeLike
