"""Additive attention: a network with one hidden layer scores each position of a source sequence.

Axes: B batch, S source length, U query size, F source vector size, A hidden size of the network.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.sharding import constrain, named

LOWEST = float(jnp.finfo(jnp.float32).min)


class AdditiveAttention(nnx.Module):
    """Computes the context c of a query s: a weighted mean of the vectors h_j of a source sequence
    (Bahdanau et al. 2015, arXiv:1409.0473, eq. 5 and 6, section A.1.2).

        e_j = v tanh(W s + U h_j)
        c = sum_j softmax(e)_j h_j

    The keys U h_j do not depend on the query: call `keys` once per source.
    """

    def __init__(
        self, query_size: int, source_size: int, size: int, numerics: Numerics, rngs: nnx.Rngs
    ):
        axes = ("embed", "recurrent")
        self.query = linear(query_size, size, axes, numerics, rngs, std=query_size**-0.5)
        self.key = linear(source_size, size, axes, numerics, rngs, std=source_size**-0.5)
        v_A = nnx.initializers.normal(size**-0.5)(rngs.params(), (size,), numerics.param_dtype)
        self.score = nnx.Param(v_A, **named("recurrent"))
        self.dtype, self.precision = numerics.dtype, numerics.precision

    def keys(self, source_BSF: jax.Array) -> jax.Array:
        """Compute the keys, [B, S, A], of a source, [B, S, F]."""
        return constrain(self.key(source_BSF), "batch", None, "recurrent")

    def __call__(
        self,
        query_BU: jax.Array,
        keys_BSA: jax.Array,
        source_BSF: jax.Array,
        source_mask_BS: jax.Array,
    ) -> jax.Array:
        """Map queries [B, U] to contexts [B, F]; `source_mask_BS` (bool) is False at padding."""
        network_BSA = jnp.tanh(self.query(query_BU)[:, None] + keys_BSA)
        scores_BS = jnp.einsum(
            "BSA,A->BS",
            network_BSA,
            self.score[...].astype(self.dtype),
            precision=self.precision,
            preferred_element_type=jnp.float32,
        )
        weights_BS = jax.nn.softmax(jnp.where(source_mask_BS, scores_BS, LOWEST), axis=-1)
        return jnp.einsum(
            "BS,BSF->BF", weights_BS.astype(self.dtype), source_BSF, precision=self.precision
        )
