"""Attention: one module for whole sequences, prefill, chunks and single positions; and another
one that looks at a second sequence.

How it is computed is the business of `model.layers.attend`.

Axes: B batch, T target length, S source length, D width, N query heads, K key/value heads,
H head dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.attend import AttentionMask, attend
from model.layers.linear import linear
from model.layers.positions import Scaling, rotary, segment_positions
from model.layers.sharding import constrain

State = dict[str, jax.Array]


class Attention(nnx.Module):
    """Multi-head or grouped-query self-attention, causal or bidirectional, the whole sequence or
    a sliding window of it, with rotary positions or none.

    `rotary_base` None: positions say nothing here; `rotary_scaling`: as in
    `model.layers.positions.rotary_frequencies`. `window`: the number of positions, its own
    included, that a causal target sees. `implementation`: as in `attend`. `residual_std`:
    standard deviation of the output kernel's initial values.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        causal: bool,
        window: int | None,
        rotary_base: float | None,
        implementation: str,
        use_bias: bool,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
        rotary_scaling: Scaling | None = None,
    ):
        if rotary_base is not None and head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {head_dim}")
        self.query, self.key, self.value, self.out = _projections(
            width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            residual_std=residual_std,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.causal, self.window, self.rotary_base = causal, window, rotary_base
        self.rotary_scaling = rotary_scaling
        self.implementation, self.dtype = implementation, jnp.dtype(dtype)

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """An empty cache: `key` and `value` [B, max_length, K, H], and each row's `length` [B]."""
        if not self.causal:
            raise ValueError("bidirectional attention has no state")
        shape = (batch_size, max_length, self.num_kv_heads, self.head_dim)
        return {
            "key": jnp.zeros(shape, self.dtype),
            "value": jnp.zeros(shape, self.dtype),
            "length": jnp.zeros(batch_size, jnp.int32),
        }

    def __call__(
        self,
        x_BTD: jax.Array,
        *,
        state: State | None = None,
        segments_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, State | None]:
        """[B, T, D] -> [B, T, D], and the state after it.

        Without a state: whole sequences; with `segments_BT` (int32 [B, T]) a position sees only
        positions of its own segment. With a state: the next T positions of each row; positions of
        segment 0 are padding on the right, and do not advance their row.
        """
        if state is None:
            y_BTNH = self._whole(x_BTD, segments_BT)
        else:
            y_BTNH, state = self._continued(x_BTD, state, segments_BT)
        return constrain(self.out(y_BTNH), "batch", "length", "width"), state

    def _whole(self, x_BTD: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
        index_BT = jnp.arange(x_BTD.shape[1])[None]
        positions_BT = index_BT if segments_BT is None else segment_positions(segments_BT)
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, positions_BT)
        # Each target needs every source: where the length is split over devices, gather them.
        k_BSKH = constrain(k_BTKH, "batch", None, "kv_heads", "head_dim")
        v_BSKH = constrain(v_BTKH, "batch", None, "kv_heads", "head_dim")
        mask = AttentionMask(self.causal, self.window, segments_BT=segments_BT)
        return attend(q_BTNH, k_BSKH, v_BSKH, mask, implementation=self.implementation)

    def _continued(
        self, x_BTD: jax.Array, state: State, segments_BT: jax.Array | None
    ) -> tuple[jax.Array, State]:
        B, T, _ = x_BTD.shape
        index_T = jnp.arange(T)
        positions_BT = state["length"][:, None] + index_T
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, positions_BT)
        # What padding writes lies past its row's length: out of sight until it is overwritten.
        rows_B1 = jnp.arange(B)[:, None]
        k_BSKH = state["key"].at[rows_B1, positions_BT].set(k_BTKH, mode="drop")
        v_BSKH = state["value"].at[rows_B1, positions_BT].set(v_BTKH, mode="drop")
        k_BSKH = constrain(k_BSKH, "batch", None, "kv_heads", "head_dim")
        v_BSKH = constrain(v_BSKH, "batch", None, "kv_heads", "head_dim")
        mask = AttentionMask(causal=True, window=self.window, first_B=state["length"])
        y_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, mask, implementation=self.implementation)
        advance = T if segments_BT is None else jnp.sum(segments_BT != 0, axis=1, dtype=jnp.int32)
        return y_BTNH, {"key": k_BSKH, "value": v_BSKH, "length": state["length"] + advance}

    def _project(
        self, x_BTD: jax.Array, positions_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_BTNH = constrain(self.query(x_BTD), "batch", "length", "heads", "head_dim")
        k_BTKH = constrain(self.key(x_BTD), "batch", "length", "kv_heads", "head_dim")
        v_BTKH = constrain(self.value(x_BTD), "batch", "length", "kv_heads", "head_dim")
        if self.rotary_base is not None:
            turning = (positions_BT, self.rotary_base, self.rotary_scaling)
            q_BTNH, k_BTKH = rotary(q_BTNH, *turning), rotary(k_BTKH, *turning)
        return q_BTNH, k_BTKH, v_BTKH


class CrossAttention(nnx.Module):
    """Multi-head attention whose targets look at the positions of another sequence (Vaswani et al.
    2017, arXiv:1706.03762, section 3.2.3), all of them. Computed as XLA does it.

    The keys and values of the sources, `keys_values`, are the same for every target: made once.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        use_bias: bool,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.query, self.key, self.value, self.out = _projections(
            width,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            residual_std=residual_std,
            use_bias=use_bias,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )

    def keys_values(self, source_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, S, D] -> keys and values, [B, S, K, H] each."""
        k_BSKH = constrain(self.key(source_BSD), "batch", None, "kv_heads", "head_dim")
        v_BSKH = constrain(self.value(source_BSD), "batch", None, "kv_heads", "head_dim")
        return k_BSKH, v_BSKH

    def __call__(
        self,
        x_BTD: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        *,
        sources_BS: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D] -> [B, T, D]; `sources_BS` (bool [B, S]) says which sources are there."""
        q_BTNH = constrain(self.query(x_BTD), "batch", "length", "heads", "head_dim")
        mask = AttentionMask(causal=False, window=None, sources_BS=sources_BS)
        y_BTNH = attend(q_BTNH, *keys_values, mask, implementation="xla")
        return constrain(self.out(y_BTNH), "batch", "length", "width")


def _projections(
    width: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    residual_std: float,
    **common: Any,
) -> tuple[nnx.LinearGeneral, ...]:
    """Those of queries, keys and values, and the one that leads back to the width."""
    if num_heads % num_kv_heads:
        raise ValueError(f"num_heads {num_heads} is no multiple of num_kv_heads {num_kv_heads}")
    query, key_value = (num_heads, head_dim), (num_kv_heads, head_dim)
    return (
        linear((width,), query, ("embed", "heads", "head_dim"), **common),
        linear((width,), key_value, ("embed", "kv_heads", "head_dim"), **common),
        linear((width,), key_value, ("embed", "kv_heads", "head_dim"), **common),
        linear(query, (width,), ("heads", "head_dim", "embed"), std=residual_std, **common),
    )
