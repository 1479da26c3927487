"""Additive attention: a small network scores each position of another sequence.

Axes: B batch, S source length, U size of a query, F size of a source vector, A size of the network.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.linear import linear
from model.layers.sharding import constrain, named

LOWEST = float(jnp.finfo(jnp.float32).min)


class AdditiveAttention(nnx.Module):
    """What a query finds among the vectors h_j of another sequence (Bahdanau et al. 2015,
    arXiv:1409.0473, eq. 5 and 6, section A.1.2):

        e_j = v tanh(W s + U h_j + b)
        c = sum_j softmax(e)_j h_j

    U h_j + b, the `keys`, are the same for every query: made once.
    """

    def __init__(
        self,
        query_size: int,
        source_size: int,
        size: int,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        numbers = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        axes = ("embed", "recurrent")
        self.query = linear((query_size,), (size,), axes, std=query_size**-0.5, **numbers)
        self.key = linear(
            (source_size,), (size,), axes, std=source_size**-0.5, use_bias=True, **numbers
        )
        normal, self.dtype = nnx.initializers.normal(size**-0.5), jnp.dtype(dtype)
        self.score = nnx.Param(
            normal(rngs.params(), (size,), jnp.dtype(param_dtype)), **named("recurrent")
        )

    def keys(self, source_BSF: jax.Array) -> jax.Array:
        """[B, S, F] -> [B, S, A]."""
        return constrain(self.key(source_BSF), "batch", None, "recurrent")

    def __call__(
        self,
        query_BU: jax.Array,
        keys_BSA: jax.Array,
        source_BSF: jax.Array,
        sources_BS: jax.Array,
    ) -> jax.Array:
        """[B, U] -> [B, F]; `sources_BS` (bool) says which positions are there."""
        network_BSA = jnp.tanh(self.query(query_BU)[:, None] + keys_BSA)
        scores_BS = jnp.einsum(
            "BSA,A->BS",
            network_BSA,
            self.score[...].astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        weights_BS = jax.nn.softmax(jnp.where(sources_BS, scores_BS, LOWEST), axis=-1)
        return jnp.einsum("BS,BSF->BF", weights_BS.astype(self.dtype), source_BSF)
