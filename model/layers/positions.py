"""Positions of tokens within their documents, and their encodings: rotary, sinusoidal, learned.

Axes: B batch, T length, N heads, H head dimension, D width.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers.embedding import embedding_table
from model.layers.numerics import Numerics


def segment_positions(segments_BT: jax.Array) -> jax.Array:
    """Return each position's index within its run of equal segment numbers, int32 [B, T]."""
    index_T = jnp.arange(segments_BT.shape[1], dtype=jnp.int32)
    starts_BT = jnp.where(segment_starts(segments_BT), index_T, 0)
    return index_T - jax.lax.cummax(starts_BT, axis=1)


def segment_starts(segments_BT: jax.Array) -> jax.Array:
    """Return True at the first position of each run of equal segment numbers, bool [B, T]."""
    before_BT = jnp.pad(segments_BT[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    return segments_BT != before_BT


FAIRSEQ_FIRST = 2
"""The number of the first position in fairseq: one more than that of padding, which is 1."""

Scaling = tuple[float, float, float, float]
"""(factor, low, high, original length): see `rotary_frequencies`."""


def rotary_waves(
    positions_BT: jax.Array,
    half: int,
    base: float,
    scaling: Scaling | None = None,
    *,
    below: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return cosine and sine of the angles position · frequency, for `rotate`: float32
    [B, T, 1, half]. `positions_BT` may be [1, T].

    `base`, `scaling`: see `rotary_frequencies`.
    `below`: a bound of the positions. With it, the waves are computed once, for all positions below
        the bound, and looked up. Without it, XLA computes them again for the queries, the keys,
        each layer and each gradient: 7 % of a train step of `python_stdlib` on a CPU.
    """
    frequency_h = rotary_frequencies(half, base, scaling)
    if below is None:
        angle_BTh = positions_BT[:, :, None].astype(jnp.float32) * frequency_h
        # The barrier keeps XLA from computing both again for each head.
        waves = jnp.cos(angle_BTh), jnp.sin(angle_BTh)
        cos_BTh, sin_BTh = jax.lax.optimization_barrier(waves)
    else:
        angle_Ph = jnp.arange(below, dtype=jnp.float32)[:, None] * frequency_h
        waves_Px = jnp.concatenate([jnp.cos(angle_Ph), jnp.sin(angle_Ph)], axis=1)
        waves_BTx = waves_Px.at[positions_BT].get(mode="promise_in_bounds")
        cos_BTh, sin_BTh = jnp.split(waves_BTx, 2, axis=2)
    return cos_BTh[:, :, None], sin_BTh[:, :, None]


def rotate(x_BTNH: jax.Array, waves: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Apply rotary positions: rotate each pair of elements (i, i + H/2) of a head by an angle whose
    cosine and sine are `waves`, each [B, T, 1, H/2].

    Su et al. 2021, arXiv:2104.09864, eq. 15, but with pairs as in Hugging Face's Llama. The
    computation is in float32; the result has the dtype of the input.
    """
    cos, sin = waves
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTNH.dtype)


def sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Return fixed position vectors, float32 [B, T, D]: sines, then cosines, at wavelengths from
    2 pi to 20,000 pi positions.

    As in Vaswani et al. 2017, arXiv:1706.03762, section 3.5, where sines and cosines alternate.
    Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {width}")
    frequency_d = 10_000.0 ** (-jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    return _waves(positions_BT, frequency_d)


def fairseq_sinusoids(positions_BT: jax.Array, width: int) -> jax.Array:
    """Return the position vectors of fairseq and M2M100, float32 [B, T, D].

    Unlike in `sinusoids`, the longest wavelength is exactly 20,000 pi positions, and the number of
    the first position is 2. Raises ValueError for an odd width, or one below 4.
    """
    if width % 2 or width < 4:
        raise ValueError(f"fairseq's positions need an even width of at least 4, not {width}")
    step = math.log(10_000.0) / (width // 2 - 1)
    frequency_d = jnp.exp(-step * jnp.arange(width // 2, dtype=jnp.float32))
    return _waves(positions_BT + FAIRSEQ_FIRST, frequency_d)


def _waves(positions_BT: jax.Array, frequency_d: jax.Array) -> jax.Array:
    angle_BTd = positions_BT[:, :, None].astype(jnp.float32) * frequency_d
    return jnp.concatenate([jnp.sin(angle_BTd), jnp.cos(angle_BTd)], axis=-1)


def rotary_frequencies(half: int, base: float, scaling: Scaling | None) -> jax.Array:
    """Return the rotary frequencies base^(-i/half), in radians per position, float32 [half].

    `scaling` (factor, low, high, original length) adapts the frequencies to a longer context, as in
    Llama 3.1 (`apply_scaling` of its code). A frequency that makes fewer than `low` turns in the
    original length is divided by `factor`. A frequency with more than `high` turns is unchanged. In
    between, the two results are interpolated linearly in the number of turns.
    """
    frequency_h = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is None:
        return frequency_h
    factor, low, high, original_length = scaling
    turns_h = original_length * frequency_h / (2 * jnp.pi)
    kept_h = jnp.clip((turns_h - low) / (high - low), 0, 1)
    return frequency_h * (kept_h + (1 - kept_h) / factor)


class LearnedPositions(nnx.Module):
    """A learned vector for each position below `max_length`; other positions give NaN."""

    def __init__(self, max_length: int, width: int, numerics: Numerics, rngs: nnx.Rngs):
        self.table = embedding_table(max_length, width, "positions", numerics, rngs)

    def __call__(self, positions_BT: jax.Array) -> jax.Array:
        """Map positions, int32 [B, T], to their vectors, [B, T, D]."""
        return self.table(positions_BT)
