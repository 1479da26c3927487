"""Pooling of a sequence into one vector.

Axes: B batch, T length, D width, N heads, H head dimension.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.attend import AttentionMask, attend
from model.layers.linear import WEIGHT_STD, linear
from model.layers.numerics import Numerics
from model.layers.sharding import constrain, named

POOLINGS = ("mean", "max", "first", "first_dense", "last", "attention")


class Pool(nnx.Module):
    """Reduces a sequence to one vector. Raises ValueError for an unknown kind.

    `kind`: "mean" or "max" over the positions; "first" or "last" position; "first_dense": the first
    position, a dense layer and tanh (as in BERT); "attention": the output of multi-head attention
    with one learned query and `num_heads` heads (Lee et al. 2019, arXiv:1810.00825, section 3.2,
    without the feed-forward part).
    """

    def __init__(
        self, kind: str, width: int, numerics: Numerics, rngs: nnx.Rngs, *, num_heads: int = 1
    ):
        if kind not in POOLINGS:
            raise ValueError(f"pooling {kind!r}: choose from {POOLINGS}")
        self.kind, self.num_heads, self.precision = kind, num_heads, numerics.precision
        self.query = self.key_value = self.dense = nnx.data(None)
        if kind == "first_dense":
            self.dense = linear(width, width, ("embed", "mlp"), numerics, rngs, use_bias=True)
        if kind == "attention":
            heads = (num_heads, width // num_heads)
            drawn = nnx.initializers.normal(WEIGHT_STD)(rngs.params(), heads, numerics.param_dtype)
            self.query = nnx.Param(drawn, **named("heads", "head_dim"))
            self.key_value = linear(
                width, (2, *heads), ("embed", None, "heads", "head_dim"), numerics, rngs
            )

    def __call__(self, x_BTD: jax.Array, real_BT: jax.Array | None = None) -> jax.Array:
        """Map [B, T, D] to [B, D]. Only positions where `real_BT` (bool) is True are used.

        If `real_BT` is None, or False in a whole row, all positions of the row are used.
        """
        B, T, D = x_BTD.shape
        if real_BT is None:
            real_BT = jnp.ones((B, T), bool)
        real_BT = real_BT | ~jnp.any(real_BT, axis=1, keepdims=True)
        if self.kind == "attention":
            pooled_BD = self._attend(x_BTD, real_BT).reshape(B, D)
        elif self.kind == "max":
            pooled_BD = jnp.max(jnp.where(real_BT[:, :, None], x_BTD, -jnp.inf), axis=1)
        elif self.kind == "mean":
            weights_BT = real_BT.astype(jnp.float32)
            sums_BD = jnp.einsum("BT,BTD->BD", weights_BT, x_BTD.astype(jnp.float32))
            pooled_BD = sums_BD / jnp.sum(weights_BT, axis=1, keepdims=True)
            pooled_BD = pooled_BD.astype(x_BTD.dtype)
        else:
            index_T = jnp.arange(T)
            last_B = jnp.max(jnp.where(real_BT, index_T, 0), axis=1)
            index_B = last_B if self.kind == "last" else jnp.argmax(real_BT, axis=1)
            pooled_BD = jnp.take_along_axis(x_BTD, index_B[:, None, None], axis=1)[:, 0]
            if self.dense is not None:
                pooled_BD = jnp.tanh(self.dense(pooled_BD))
        return constrain(pooled_BD, "batch", "width")

    def _attend(self, x_BTD: jax.Array, real_BT: jax.Array) -> jax.Array:
        assert self.key_value is not None and self.query is not None
        key_value = constrain(self.key_value(x_BTD), "batch", None, None, "heads", "head_dim")
        query_NH = self.query[...].astype(x_BTD.dtype)
        q_B1NH = jnp.broadcast_to(query_NH, (x_BTD.shape[0], 1, *query_NH.shape))
        mask = AttentionMask(causal=False, window=None, source_mask_BS=real_BT)
        k_BTNH, v_BTNH = key_value[:, :, 0], key_value[:, :, 1]
        return attend(q_B1NH, k_BTNH, v_BTNH, mask, implementation="xla", precision=self.precision)
