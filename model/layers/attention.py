"""Self-attention, with or without a key/value cache, and cross-attention.

This file contains the projections and the cache; `model.layers.attend.attend` computes attention.

Axes: B batch, T target length, S source length, D width, N query heads, K key/value heads,
H head dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.attend import AttentionMask, attend
from model.layers.linear import linear
from model.layers.numerics import Numerics
from model.layers.positions import Scaling, rotary, segment_positions
from model.layers.sharding import constrain
from model.layers.states import State


class HeadProjections(nnx.Module):
    """The linear layers of multi-head attention: from the model's width to queries, keys and
    values, and from heads back to the width.

    `num_kv_heads` None means `num_heads`; `head_dim` None means width // num_heads. `residual_std`:
    the standard deviation of the output kernel's initial values. ValueError: `num_heads` is not a
    multiple of `num_kv_heads`.
    """

    def __init__(
        self,
        width: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        num_heads: int,
        num_kv_heads: int | None,
        head_dim: int | None,
        use_bias: bool,
        residual_std: float,
    ):
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim or width // num_heads
        if num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )

        def inward(heads: int, axis: str) -> nnx.LinearGeneral:
            shape, axes = (heads, self.head_dim), ("embed", axis, "head_dim")
            return linear(width, shape, axes, numerics, rngs, use_bias=use_bias)

        self.query = inward(num_heads, "heads")
        self.key = inward(self.num_kv_heads, "kv_heads")
        self.value = inward(self.num_kv_heads, "kv_heads")
        self.out = linear(
            (num_heads, self.head_dim),
            width,
            ("heads", "head_dim", "embed"),
            numerics,
            rngs,
            std=residual_std,
            use_bias=use_bias,
        )


class Attention(HeadProjections):
    """Multi-head or grouped-query self-attention, causal or bidirectional, over the whole sequence
    or a sliding window, with or without rotary positions.

    `window`: a target sees only positions less than this distance away; None: all. `rotary_base`,
    `rotary_scaling`: `base` and `scaling` of `model.layers.positions.rotary`; `rotary_base` None:
    no rotary positions. `implementation`: as in `attend`. `heads`: the arguments of
    `HeadProjections`. ValueError: rotary positions with an odd head dimension.
    """

    def __init__(
        self,
        width: int,
        numerics: Numerics,
        rngs: nnx.Rngs,
        *,
        causal: bool,
        window: int | None,
        rotary_base: float | None,
        rotary_scaling: Scaling | None = None,
        implementation: str,
        **heads: Any,
    ):
        super().__init__(width, numerics, rngs, **heads)
        if rotary_base is not None and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        self.causal, self.window = causal, window
        self.rotary_base, self.rotary_scaling = rotary_base, rotary_scaling
        self.implementation, self.dtype = implementation, numerics.dtype

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Return an empty cache: `key` and `value` [B, max_length, K, H], `length` int32 [B].

        ValueError: bidirectional attention, which has no state.
        """
        if not self.causal:
            raise ValueError("bidirectional attention has no state")
        shape = (batch_size, max_length, self.num_kv_heads, self.head_dim)
        return {
            "key": jnp.zeros(shape, self.dtype),
            "value": jnp.zeros(shape, self.dtype),
            "length": jnp.zeros(batch_size, jnp.int32),
        }

    def __call__(
        self, x_BTD: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, D] -> [B, T, D]; also return the new state.

        Arguments: see `model.backbone`.
        """
        if state is None:
            y_BTNH = self._full_sequence(x_BTD, segments_BT)
        else:
            y_BTNH, state = self._with_cache(x_BTD, state, segments_BT)
        return constrain(self.out(y_BTNH), "batch", "length", "width"), state

    def _full_sequence(self, x_BTD: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
        index_BT = jnp.arange(x_BTD.shape[1])[None]
        positions_BT = index_BT if segments_BT is None else segment_positions(segments_BT)
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, positions_BT)
        # Every target attends to every source: gather the sources if the length is sharded.
        k_BSKH = constrain(k_BTKH, "batch", None, "kv_heads", "head_dim")
        v_BSKH = constrain(v_BTKH, "batch", None, "kv_heads", "head_dim")
        mask = AttentionMask(self.causal, self.window, segments_BT=segments_BT)
        return attend(q_BTNH, k_BSKH, v_BSKH, mask, implementation=self.implementation)

    def _with_cache(
        self, x_BTD: jax.Array, state: State, segments_BT: jax.Array | None
    ) -> tuple[jax.Array, State]:
        B, T, _ = x_BTD.shape
        index_T = jnp.arange(T)
        positions_BT = state["length"][:, None] + index_T
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, positions_BT)
        # Padding is written after the row's length: it is invisible until a token overwrites it.
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
            rotation = (positions_BT, self.rotary_base, self.rotary_scaling)
            q_BTNH, k_BTKH = rotary(q_BTNH, *rotation), rotary(k_BTKH, *rotation)
        return q_BTNH, k_BTKH, v_BTKH


class CrossAttention(HeadProjections):
    """Multi-head attention from targets to all positions of a source sequence (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.2.3), always computed by "xla".

    Keys and values do not depend on the targets: call `keys_values` once per source.
    """

    def keys_values(self, source_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map a source [B, S, D] -> keys and values, [B, S, K, H] each."""
        k_BSKH = constrain(self.key(source_BSD), "batch", None, "kv_heads", "head_dim")
        v_BSKH = constrain(self.value(source_BSD), "batch", None, "kv_heads", "head_dim")
        return k_BSKH, v_BSKH

    def __call__(
        self,
        x_BTD: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        *,
        source_mask_BS: jax.Array | None = None,
    ) -> jax.Array:
        """Map targets [B, T, D] -> [B, T, D]; `source_mask_BS` (bool) is False at padding."""
        q_BTNH = constrain(self.query(x_BTD), "batch", "length", "heads", "head_dim")
        mask = AttentionMask(causal=False, window=None, source_mask_BS=source_mask_BS)
        y_BTNH = attend(q_BTNH, *keys_values, mask, implementation="xla")
        return constrain(self.out(y_BTNH), "batch", "length", "width")
