"""Self-attention, with or without a key/value cache, and cross-attention.

This file contains the projections and the cache; `model.layers.attend.attend` computes attention.

Axes: B batch, T target length, S source length, D width, N query heads, K key/value heads,
H head dimension.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.attend import AttentionMask, attend, attend_to_cache, visible
from model.layers.linear import linear
from model.layers.norms import norm
from model.layers.numerics import Numerics
from model.layers.positions import Scaling, rotary_waves, rotate, segment_positions
from model.layers.sharding import constrain
from model.layers.states import State, StateAxes

KEY_AXES = ("batch", "kv_heads", "head_dim", None)
VALUE_AXES = ("batch", "kv_heads", None, "head_dim")
"""The logical axes of the arrays of a cache."""

RING_SLACK = 16
"""Positions that the cache of a window holds in addition: a chunk of one more than these can be
written before it is attended to."""


class HeadProjections(nnx.Module):
    """The linear layers of multi-head attention: from the model's width to queries, keys and
    values, and from heads back to the width.

    `num_kv_heads` None means `num_heads`; `head_dim` None means width // num_heads.

    `use_bias`: whether all linear layers have biases; `qkv_bias`: whether those of queries, keys
        and values have them in any case.
    `residual_std`: the standard deviation of the output kernel's initial values.

    Raises ValueError if `num_heads` is not a multiple of `num_kv_heads`.
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
        qkv_bias: bool = False,
    ):
        self.precision = numerics.precision
        self.num_kv_heads = num_kv_heads or num_heads
        self.head_dim = head_dim or width // num_heads
        if num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )

        def inward(heads: int, axis: str) -> nnx.LinearGeneral:
            shape, axes = (heads, self.head_dim), ("embed", axis, "head_dim")
            return linear(width, shape, axes, numerics, rngs, use_bias=use_bias or qkv_bias)

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

    `window`: a query sees only positions less than this distance away; None: all.
    `rotary_base`, `rotary_scaling`: `base` and `scaling` of `model.layers.positions.rotary_waves`;
        `rotary_base` None: no rotary positions.
    `implementation`: as in `attend`.
    `qk_norm_epsilon`: the epsilon of an RMS norm of the queries and of one of the keys, over each
        head, before rotary positions (Qwen Team 2025, arXiv:2505.09388, section 2); None: no norms.
    `heads`: the arguments of `HeadProjections`.

    Raises ValueError for rotary positions with an odd head dimension.
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
        qk_norm_epsilon: float | None = None,
        **heads: Any,
    ):
        super().__init__(width, numerics, rngs, **heads)
        if rotary_base is not None and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        self.query_norm = self.key_norm = nnx.data(None)
        if qk_norm_epsilon is not None:
            options: dict[str, Any] = {"epsilon": qk_norm_epsilon, "use_bias": False}
            self.query_norm, self.key_norm = (
                norm("rms_norm", self.head_dim, numerics, rngs, **options) for _ in range(2)
            )
        self.causal, self.window = causal, window
        self.rotary_base, self.rotary_scaling = rotary_base, rotary_scaling
        self.implementation, self.dtype = implementation, numerics.dtype

    def initial_state(self, batch_size: int, max_length: int) -> State:
        """Return an empty cache: `key` [B, K, H, S], `value` [B, K, S, H], `length` int32 [B].

        Matrix products read both without copies. S is `max_length`. With a window it is less: the
        cache is then a ring, in which new positions replace those that no later query sees.
        """
        if not self.causal:
            raise ValueError("bidirectional attention has no state")
        size = max_length
        if self.window is not None:
            size = min(size, self.window + RING_SLACK)
        heads = (batch_size, self.num_kv_heads)
        return {
            "key": jnp.zeros((*heads, self.head_dim, size), self.dtype),
            "value": jnp.zeros((*heads, size, self.head_dim), self.dtype),
            "length": jnp.zeros(batch_size, jnp.int32),
        }

    @property
    def state_axes(self) -> StateAxes:
        """Return the logical axes of the arrays of a state."""
        return {"key": KEY_AXES, "value": VALUE_AXES, "length": ("batch",)}

    def __call__(
        self, x_BTD: jax.Array, *, state: State | None = None, segments_BT: jax.Array | None = None
    ) -> tuple[jax.Array, State | None]:
        """Map [B, T, D] to [B, T, D]; also return the new state.

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
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, positions_BT, below=x_BTD.shape[1])
        # Every query attends to every key: gather the keys if the length is sharded.
        k_BSKH = constrain(k_BTKH, "batch", None, "kv_heads", "head_dim")
        v_BSKH = constrain(v_BTKH, "batch", None, "kv_heads", "head_dim")
        mask = AttentionMask(self.causal, self.window, segments_BT=segments_BT)
        return attend(
            q_BTNH,
            k_BSKH,
            v_BSKH,
            mask,
            implementation=self.implementation,
            precision=self.precision,
        )

    def _with_cache(
        self, x_BTD: jax.Array, state: State, segments_BT: jax.Array | None
    ) -> tuple[jax.Array, State]:
        B, T, _ = x_BTD.shape
        positions_BT = state["length"][:, None] + jnp.arange(T)
        q_BTNH, k_BTKH, v_BTKH = self._project(x_BTD, positions_BT)
        real_BT = jnp.ones((B, T), bool) if segments_BT is None else segments_BT != 0
        length_B = state["length"] + jnp.sum(real_BT, axis=1, dtype=jnp.int32)
        size = state["key"].shape[3]
        # Padding is not written, nor positions that later ones of this chunk would replace.
        kept_BT = real_BT & (positions_BT >= length_B[:, None] - size)
        places_BT = positions_BT % size
        k_BKHT, v_BKTH = jnp.moveaxis(k_BTKH, 1, 3), jnp.moveaxis(v_BTKH, 1, 2)
        k_BKHS = _written(state["key"], k_BKHT, 3, places_BT, kept_BT)
        v_BKSH = _written(state["value"], v_BKTH, 2, places_BT, kept_BT)
        cache = {
            "key": constrain(k_BKHS, *KEY_AXES),
            "value": constrain(v_BKSH, *VALUE_AXES),
            "length": length_B,
        }
        if self.window is None or size - self.window >= T - 1:
            k_BKHS, v_BKSH = cache["key"], cache["value"]
            source_BS = _positions_in_ring(length_B, size)
        else:  # The chunk replaces positions that its first queries see.
            k_BKHS = jnp.concatenate([state["key"], k_BKHT], axis=3)
            v_BKSH = jnp.concatenate([state["value"], v_BKTH], axis=2)
            old_BS = _positions_in_ring(state["length"], size)
            source_BS = jnp.concatenate([old_BS, positions_BT], axis=1)
        mask_BTS = visible(positions_BT, source_BS, causal=True, window=self.window)
        assert mask_BTS is not None
        mask_BTS &= (source_BS >= 0)[:, None]
        return attend_to_cache(q_BTNH, k_BKHS, v_BKSH, mask_BTS, precision=self.precision), cache

    def _project(
        self, x_BTD: jax.Array, positions_BT: jax.Array, *, below: int | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        q_BTNH = constrain(self.query(x_BTD), "batch", "length", "heads", "head_dim")
        k_BTKH = constrain(self.key(x_BTD), "batch", "length", "kv_heads", "head_dim")
        v_BTKH = constrain(self.value(x_BTD), "batch", "length", "kv_heads", "head_dim")
        if self.query_norm is not None:
            assert self.key_norm is not None
            q_BTNH, k_BTKH = self.query_norm(q_BTNH), self.key_norm(k_BTKH)
        if self.rotary_base is not None:
            rotation = (self.head_dim // 2, self.rotary_base, self.rotary_scaling)
            waves = rotary_waves(positions_BT, *rotation, below=below)
            q_BTNH, k_BTKH = rotate(q_BTNH, waves), rotate(k_BTKH, waves)
        return q_BTNH, k_BTKH, v_BTKH


def _written(
    cache: jax.Array, new: jax.Array, axis: int, places_BT: jax.Array, kept_BT: jax.Array
) -> jax.Array:
    """Write positions into a cache, a key [B, K, H, S] or value [B, K, S, H]; return the new cache.

    new: the keys or values to write; dimension `axis` has size T instead of S.
    places_BT: the place in the cache to which each position is written.
    kept_BT: whether the position is written at all (bool).
    """
    index_BT = jnp.where(kept_BT, places_BT, cache.shape[axis])
    rows, length = index_BT.shape
    if length == 1 and (rows == 1 or jax.export.is_symbolic_dim(rows)):
        # XLA would write a single position into several copies of the cache.
        new = jnp.repeat(new, 2, axis)
        index_BT = jnp.pad(index_BT, ((0, 0), (0, 1)), constant_values=cache.shape[axis])
    index: list[Any] = [jnp.arange(index_BT.shape[0])[:, None], *[slice(None)] * 3]
    index[axis] = index_BT
    # The dimensions of the indices come first in what is written: [B, T, K, H].
    return cache.at[tuple(index)].set(jnp.moveaxis(new, axis, 1), mode="drop")


def _positions_in_ring(length_B: jax.Array, size: int) -> jax.Array:
    """Return the position that each place of a ring holds after `length_B` positions; -1 or less
    if it holds none. int32 [B, S]

    Place s holds the last position p with p % size = s.
    """
    last_B1 = length_B[:, None] - 1
    return last_B1 - (last_B1 - jnp.arange(size)) % size


class CrossAttention(HeadProjections):
    """Multi-head attention from targets to all positions of a source sequence (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.2.3), always computed by "xla".

    Keys and values do not depend on the targets: call `keys_values` once per source.
    """

    def keys_values(self, source_BSD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Map a source [B, S, D] to keys and values, [B, S, K, H] each."""
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
        """Map targets [B, T, D] to [B, T, D]; `source_mask_BS` (bool) is False at padding."""
        q_BTNH = constrain(self.query(x_BTD), "batch", "length", "heads", "head_dim")
        mask = AttentionMask(causal=False, window=None, source_mask_BS=source_mask_BS)
        y_BTNH = attend(q_BTNH, *keys_values, mask, implementation="xla", precision=self.precision)
        return constrain(self.out(y_BTNH), "batch", "length", "width")
