"""Linear layers with logical axis names."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.int8 import dot_general, promote_dtype
from model.layers.numerics import Numerics
from model.layers.sharding import named

WEIGHT_STD = 0.02  # GPT-2's; see the table of initial values in model/decoder.py


def linear(
    in_features: int | Sequence[int],
    out_features: int | Sequence[int],
    axes: Sequence[str | None],
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    std: float = WEIGHT_STD,
    use_bias: bool = False,
    preferred_element_type: DTypeLike | None = None,
) -> nnx.LinearGeneral:
    """Make a linear layer from [..., *in_features] to [..., *out_features].

    The kernel has shape (*in_features, *out_features); `axes` are the logical names of its
    dimensions. The kernel is initialised normal with standard deviation `std`, the bias with zeros.
    For inference the kernel may be an `Int8Kernel`.
    """
    inputs = (in_features,) if isinstance(in_features, int) else tuple(in_features)
    return nnx.LinearGeneral(
        inputs,
        out_features,
        axis=tuple(range(-len(inputs), 0)),
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata=named(*axes),
        bias_metadata=named(*axes[len(inputs) :]),
        promote_dtype=promote_dtype,
        dot_general=dot_general,
        preferred_element_type=preferred_element_type,
        precision=numerics.precision,
        dtype=numerics.dtype,
        param_dtype=numerics.param_dtype,
        rngs=rngs,
    )


def logits_head(
    features: int,
    count: int,
    axes: Sequence[str],
    numerics: Numerics,
    rngs: nnx.Rngs,
    *,
    std: float = WEIGHT_STD,
    use_bias: bool = True,
) -> nnx.LinearGeneral:
    """Make a linear layer from [..., features] to logits [..., count], always float32. `axes`,
    `std`, `use_bias`: as in `linear`."""
    options = {"std": std, "use_bias": use_bias, "preferred_element_type": jnp.float32}
    return linear(features, count, axes, numerics, rngs, **options)
