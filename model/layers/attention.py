"""Attention: one module for whole sequences, prefill, chunks and single positions.

Axes: B batch, T target length, S source length, D width, N query heads, K key/value heads,
G query heads that share a key/value head (N = K · G), H head dimension.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from model.layers.linear import linear
from model.layers.positions import rotary, segment_positions
from model.layers.sharding import constrain

State = dict[str, jax.Array]


def attend(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array | None
) -> jax.Array:
    """Scaled dot-product attention. [B, T, N, H]

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1; N may be a multiple of K: query head n reads
    key/value head n // (N/K) (Ainslie et al. 2023, arXiv:2305.13245), which is never repeated in
    memory. `mask_BTS` (bool; B may be 1) is True where a target may look, None for everywhere; a
    target that may look nowhere gets the mean of the values. Scores and softmax are float32.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = (q_BTNH * H**-0.5).reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    if mask_BTS is not None:
        lowest = jnp.finfo(jnp.float32).min
        scores_BKGTS = jnp.where(mask_BTS[:, None, None], scores_BKGTS, lowest)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH).reshape(B, T, N, H)


def visible(
    target_BT: jax.Array, source_BS: jax.Array, *, causal: bool, window: int | None
) -> jax.Array | None:
    """Which source positions a target position may look at, by position alone. bool [B, T, S]

    Causal: none after itself; `window`: only those less than `window` positions away. None where
    everything is visible. B may be 1 in either argument.
    """
    distance_BTS = target_BT[:, :, None] - source_BS[:, None, :]
    if window is not None:
        near_BTS = jnp.abs(distance_BTS) < window
        return near_BTS & (distance_BTS >= 0) if causal else near_BTS
    return distance_BTS >= 0 if causal else None


class Attention(nnx.Module):
    """Multi-head or grouped-query self-attention, causal or bidirectional, the whole sequence or
    a sliding window of it, with rotary positions or none.

    `rotary_base` None: positions say nothing here. `window`: the number of positions, its own
    included, that a causal target sees. `residual_std`: standard deviation of the output
    kernel's initial values.
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
        use_bias: bool,
        residual_std: float,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if num_heads % num_kv_heads:
            raise ValueError(f"num_heads {num_heads} is no multiple of num_kv_heads {num_kv_heads}")
        if rotary_base is not None and head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {head_dim}")
        common = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        query = (num_heads, head_dim)
        key_value = (num_kv_heads, head_dim)
        self.query = linear((width,), query, ("embed", "heads", "head_dim"), **common)
        self.key = linear((width,), key_value, ("embed", "kv_heads", "head_dim"), **common)
        self.value = linear((width,), key_value, ("embed", "kv_heads", "head_dim"), **common)
        self.out = linear(
            query, (width,), ("heads", "head_dim", "embed"), std=residual_std, **common
        )
        self.num_kv_heads, self.head_dim = num_kv_heads, head_dim
        self.causal, self.window, self.rotary_base = causal, window, rotary_base
        self.dtype = jnp.dtype(dtype)

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
        mask_BTS = visible(index_BT, index_BT, causal=self.causal, window=self.window)
        if segments_BT is not None:
            same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
            mask_BTS = same_BTS if mask_BTS is None else mask_BTS & same_BTS
        return attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS)

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
        source_BS = jnp.arange(k_BSKH.shape[1])[None]
        mask_BTS = visible(positions_BT, source_BS, causal=True, window=self.window)
        y_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, mask_BTS)
        advance = T if segments_BT is None else jnp.sum(segments_BT != 0, axis=1, dtype=jnp.int32)
        return y_BTNH, {"key": k_BSKH, "value": v_BSKH, "length": state["length"] + advance}

    def _project(
        self, x_BTD: jax.Array, positions_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_BTNH = constrain(self.query(x_BTD), "batch", "length", "heads", "head_dim")
        k_BTKH = constrain(self.key(x_BTD), "batch", "length", "kv_heads", "head_dim")
        v_BTKH = constrain(self.value(x_BTD), "batch", "length", "kv_heads", "head_dim")
        if self.rotary_base is not None:
            q_BTNH = rotary(q_BTNH, positions_BT, self.rotary_base)
            k_BTKH = rotary(k_BTKH, positions_BT, self.rotary_base)
        return q_BTNH, k_BTKH, v_BTKH
