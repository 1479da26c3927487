"""What BERT has around the table that reads tokens out.

Axes: B batch, T length, D width, V vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.feed_forward import ACTIVATIONS
from model.layers.linear import linear
from model.layers.sharding import constrain, named


class HeadTransform(nnx.Module):
    """decode(norm(activation(dense(x)))) + bias, as the code of Devlin et al. 2019,
    arXiv:1810.04805, reads out tokens that were masked. The bias starts at zero.

    `activation`: that of this kind of feed-forward part.
    """

    def __init__(
        self,
        activation: str,
        width: int,
        vocabulary_size: int,
        make_norm: Callable[[], nnx.Module],
        *,
        use_bias: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.dense = linear((width,), (width,), ("embed", "mlp"), use_bias=use_bias, **numbers)
        self.activation = ACTIVATIONS[activation]
        self.norm = make_norm()
        zeros_V = jnp.zeros(vocabulary_size, jnp.dtype(param_dtype))
        self.bias = nnx.Param(zeros_V, **named("vocabulary"))

    def __call__(self, x_BTD: jax.Array, decode: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """[B, T, D] -> logits, float32 [B, T, V], `decode` from the one to the other."""
        x_BTD = self.norm(self.activation(self.dense(x_BTD)))
        logits_BTV = decode(constrain(x_BTD, "batch", "length", "width"))
        return logits_BTV + self.bias[...].astype(jnp.float32)
