"""Linear maps over any number of named dimensions."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.sharding import named

WEIGHT_STD = 0.02  # GPT-2's; see the table of initialisation in model/decoder.py


def linear(
    in_features: Sequence[int],
    out_features: Sequence[int],
    axes: Sequence[str | None],
    *,
    std: float = WEIGHT_STD,
    use_bias: bool = False,
    preferred_element_type: DTypeLike | None = None,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.LinearGeneral:
    """A map from the last `len(in_features)` dimensions of its input to `out_features`.

    The kernel has shape (*in_features, *out_features) and one of `axes` for each dimension; it is
    drawn from a normal distribution of standard deviation `std`. The bias starts at zero.
    """
    return nnx.LinearGeneral(
        tuple(in_features),
        tuple(out_features),
        axis=tuple(range(-len(in_features), 0)),
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata=named(*axes),
        bias_metadata=named(*axes[len(in_features) :]),
        preferred_element_type=preferred_element_type,
        dtype=jnp.dtype(dtype),
        param_dtype=jnp.dtype(param_dtype),
        rngs=rngs,
    )


def class_head(
    features: int,
    num_classes: int,
    *,
    axis: str = "embed",
    std: float = WEIGHT_STD,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    rngs: nnx.Rngs,
) -> nnx.LinearGeneral:
    """A map [B, features] -> logits of classes, float32 [B, num_classes], with a bias; `axis` is
    the logical name of the features."""
    return linear(
        (features,),
        (num_classes,),
        (axis, "classes"),
        std=std,
        use_bias=True,
        preferred_element_type=jnp.float32,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )
