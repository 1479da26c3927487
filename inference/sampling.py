"""Draws the next token of each row, with the row's own settings and random numbers.

Axes: B batch, V vocabulary.
"""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from inference.requests import Sampling

Array = jax.Array | np.ndarray
"""On the host, or on the devices."""


@struct.dataclass
class RowSettings:
    """The settings of each row, as arrays [B]. A setting that no row uses is None, and costs
    nothing."""

    temperature_B: Array
    top_k_B: Array | None
    top_p_B: Array | None
    min_p_B: Array | None
    repetition_penalty_B: Array | None

    @classmethod
    def of(cls, rows: Sequence[Sampling], vocabulary_size: int) -> "RowSettings":
        """Collect the settings of `rows` into arrays on the host."""

        def column(name: str, off: float, dtype: type) -> np.ndarray | None:
            values = [getattr(row, name) for row in rows]
            return None if all(value == off for value in values) else np.array(values, dtype)

        top_k_B = column("top_k", 0, np.int32)
        if top_k_B is not None:
            top_k_B = np.where(top_k_B == 0, vocabulary_size, np.minimum(top_k_B, vocabulary_size))
        return cls(
            temperature_B=np.array([row.temperature for row in rows], np.float32),
            top_k_B=top_k_B,
            top_p_B=column("top_p", 1, np.float32),
            min_p_B=column("min_p", 0, np.float32),
            repetition_penalty_B=column("repetition_penalty", 1, np.float32),
        )


def row_keys(seeds: Sequence[int], prompts: Sequence[str], repeats: Sequence[int]) -> np.ndarray:
    """Make a random key for each row from its seed, prompt and number of repeats; uint32 [B, 2]."""
    keys = []
    for seed, prompt, repeat in zip(seeds, prompts, repeats, strict=True):
        # Otherwise prompts with the same seed would draw the same words at the same places.
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(prompt.encode()))
        keys.append(jax.random.fold_in(key, repeat))
    return np.stack([np.asarray(jax.random.key_data(key)) for key in keys])


def sample(
    logits_BV: jax.Array,
    keys_B2: jax.Array,
    count_B: jax.Array,
    settings: RowSettings,
    seen_BV: jax.Array | None,
) -> jax.Array:
    """Draw the next token of each row, int32 [B].

    `count_B` is the number of tokens that each row has written. Together with the row's key it
    decides the random numbers, so that other rows do not matter. `seen_BV` (bool) says which tokens
    each row already contains, for the repetition penalty; None if no row uses it.
    """
    if seen_BV is not None and settings.repetition_penalty_B is not None:
        logits_BV = penalized(logits_BV, seen_BV, settings.repetition_penalty_B)
    likeliest_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    greedy_B = settings.temperature_B == 0
    temperature_B = jnp.where(greedy_B, 1.0, settings.temperature_B)
    logits_BV = kept(logits_BV / temperature_B[:, None], settings)

    def draw(key_2, count, logits_V):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_2), count)
        return jax.random.categorical(key, logits_V)

    drawn_B = jax.vmap(draw)(keys_B2, count_B, logits_BV).astype(jnp.int32)
    return jnp.where(greedy_B, likeliest_B, drawn_B)


def penalized(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: Array) -> jax.Array:
    """Return the logits with the repetition penalty: for seen tokens, positive logits are divided
    by it and negative ones multiplied (Keskar et al. 2019, arXiv:1909.05858, section 4.1)."""
    penalty_B1 = penalty_B[:, None]
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def kept(logits_BV: jax.Array, settings: RowSettings) -> jax.Array:
    """Return the logits, with -inf for the tokens that are excluded by top-k, top-p and min-p, in
    this order.

    Nucleus (top-p): Holtzman et al. 2020, arXiv:1904.09751; min-p: Nguyen et al. 2024,
    arXiv:2407.01082. Tokens exactly as likely as the last one kept are kept too.
    """
    lowest_B1 = jnp.full((len(logits_BV), 1), -jnp.inf)
    if settings.top_k_B is not None or settings.top_p_B is not None:
        sorted_BV = -jnp.sort(-logits_BV, axis=-1)
        if settings.top_k_B is not None:
            last_B1 = settings.top_k_B[:, None] - 1
            lowest_B1 = jnp.take_along_axis(sorted_BV, last_B1, axis=-1)
            sorted_BV = jnp.where(sorted_BV >= lowest_B1, sorted_BV, -jnp.inf)
        if settings.top_p_B is not None:
            probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
            before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
            inside_BV = (before_BV < settings.top_p_B[:, None]) & (probability_BV > 0)
            nucleus_B1 = jnp.min(jnp.where(inside_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
            # Rows without top-p keep all their tokens, however the long sum is rounded.
            off_B1 = settings.top_p_B[:, None] == 1
            lowest_B1 = jnp.where(off_B1, lowest_B1, jnp.maximum(lowest_B1, nucleus_B1))
    if settings.min_p_B is not None:
        highest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
        lowest_B1 = jnp.maximum(lowest_B1, highest_B1 + jnp.log(settings.min_p_B)[:, None])
    return jnp.where(logits_BV >= lowest_B1, logits_BV, -jnp.inf)
