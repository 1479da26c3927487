"""Draws the next token of each row, with the row's own settings and random numbers.

Axes: B batch, V vocabulary, K alternatives.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from inference.requests import Sampling

Array = jax.Array | np.ndarray
"""An array on the host, or on the devices."""

OFF: dict[str, float] = {
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "repetition_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": 0,
}
"""The optional settings, and the value with which each has no effect."""

CANDIDATES = 256
"""Number of likeliest tokens to which top-k and top-p are applied first. This is much faster than
sorting a large vocabulary. If a row keeps more tokens, the whole vocabulary is sorted."""


@struct.dataclass
class RowSettings:
    """The settings of each row, as arrays: int32 [B] for top-k, float32 [B, V] for the logit bias,
    float32 [B] for the others.

    An array is None if the program is compiled without this setting; it then costs nothing.
    Otherwise, rows that do not use a setting have a value without effect: that of `OFF`, or V for
    top-k.
    """

    temperature_B: Array
    top_k_B: Array | None = None
    top_p_B: Array | None = None
    min_p_B: Array | None = None
    repetition_penalty_B: Array | None = None
    frequency_penalty_B: Array | None = None
    presence_penalty_B: Array | None = None
    logit_bias_BV: Array | None = None

    @classmethod
    def of(
        cls, rows: Sequence[Sampling], vocabulary_size: int, options: Iterable[str] | None = None
    ) -> "RowSettings":
        """Collect the settings of `rows` into arrays on the host.

        options: the settings of `OFF` to include; None: those that at least one row uses.
        """
        included = used_options(rows) if options is None else frozenset(options)

        def column(name: str, dtype: type) -> np.ndarray | None:
            if name not in included:
                return None
            return np.array([getattr(row, name) for row in rows], dtype)

        top_k_B = column("top_k", np.int32)
        if top_k_B is not None:
            top_k_B = np.where(top_k_B == 0, vocabulary_size, np.minimum(top_k_B, vocabulary_size))
        bias_BV = None
        if "logit_bias" in included:
            bias_BV = np.zeros((len(rows), vocabulary_size), np.float32)
            for row, bias_V in zip(rows, bias_BV, strict=True):
                for token, bias in row.logit_bias:
                    bias_V[token] = bias
        return cls(
            temperature_B=np.array([row.temperature for row in rows], np.float32),
            top_k_B=top_k_B,
            top_p_B=column("top_p", np.float32),
            min_p_B=column("min_p", np.float32),
            repetition_penalty_B=column("repetition_penalty", np.float32),
            frequency_penalty_B=column("frequency_penalty", np.float32),
            presence_penalty_B=column("presence_penalty", np.float32),
            logit_bias_BV=bias_BV,
        )


def used_options(rows: Iterable[Sampling]) -> frozenset[str]:
    """Return the names in `OFF` of the settings that at least one row uses."""
    return frozenset(
        name for row in rows for name, off in OFF.items() if getattr(row, name) not in (off, ())
    )


def row_key(seed: int, prompt_hash: int, repeat: int) -> np.ndarray:
    """Make the random key of a row, uint32 [2], from its seed, a hash of its prompt (32 bits), and
    `repeat`, the number of earlier rows with the same seed and prompt."""
    return np.asarray(_row_key(*np.array([seed, prompt_hash, repeat], np.uint32)))


@jax.jit
def _row_key(seed: jax.Array, prompt_hash: jax.Array, repeat: jax.Array) -> jax.Array:
    # With the seed alone, all prompts would get the same random numbers at the same positions.
    key = jax.random.fold_in(jax.random.key(seed), prompt_hash)
    return jax.random.key_data(jax.random.fold_in(key, repeat))


def sample(
    logits_BV: jax.Array,
    keys_B2: Array,
    count_B: Array,
    settings: RowSettings,
    seen_BV: Array | None = None,
    written_BV: Array | None = None,
) -> jax.Array:
    """Draw the next token of each row, int32 [B].

    keys_B2: uint32, the rows' random keys, from `row_key`.
    count_B: int32, the number of tokens generated so far in each row. The random numbers of a row
        depend only on its key and this number, not on other rows.
    seen_BV: bool, whether each token occurs in the row's prompt or text, for the repetition
        penalty; None without it.
    written_BV: int32, how often each token was generated, for the frequency and presence penalties;
        None without them.
    """
    if seen_BV is not None and settings.repetition_penalty_B is not None:
        logits_BV = penalized(logits_BV, seen_BV, settings.repetition_penalty_B)
    if written_BV is not None:
        logits_BV = less_frequent(logits_BV, written_BV, settings)
    if settings.logit_bias_BV is not None:
        logits_BV = logits_BV + settings.logit_bias_BV
    likeliest_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    greedy_B = settings.temperature_B == 0

    def drawn(logits_BV: jax.Array) -> jax.Array:
        temperature_B = jnp.where(greedy_B, 1.0, settings.temperature_B)
        kept_BV = kept(logits_BV / temperature_B[:, None], settings)

        def draw(key_2, count, logits_V):
            key = jax.random.fold_in(jax.random.wrap_key_data(key_2), count)
            return jax.random.categorical(key, logits_V)

        drawn_B = jax.vmap(draw)(keys_B2, count_B, kept_BV).astype(jnp.int32)
        return jnp.where(greedy_B, likeliest_B, drawn_B)

    return jax.lax.cond(jnp.all(greedy_B), lambda _: likeliest_B, drawn, logits_BV)


def penalized(logits_BV: jax.Array, seen_BV: Array, penalty_B: Array) -> jax.Array:
    """Apply the repetition penalty: divide the positive logits of seen tokens by it, and multiply
    the negative ones by it (Keskar et al. 2019, arXiv:1909.05858, section 4.1)."""
    penalty_B1 = penalty_B[:, None]
    lowered_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, lowered_BV, logits_BV)


def less_frequent(logits_BV: jax.Array, written_BV: Array, settings: RowSettings) -> jax.Array:
    """Subtract from the logit of each generated token the frequency penalty times its count, and
    the presence penalty once (as defined for OpenAI's API)."""
    if settings.frequency_penalty_B is not None:
        logits_BV = logits_BV - settings.frequency_penalty_B[:, None] * written_BV
    if settings.presence_penalty_B is not None:
        logits_BV = logits_BV - settings.presence_penalty_B[:, None] * (written_BV > 0)
    return logits_BV


def kept(logits_BV: jax.Array, settings: RowSettings) -> jax.Array:
    """Return the logits, with -inf for the tokens that are excluded by top-k, top-p and min-p, in
    this order.

    Nucleus (top-p): Holtzman et al. 2020, arXiv:1904.09751; min-p: Nguyen et al. 2024,
    arXiv:2407.01082. Tokens exactly as likely as the last one kept are kept too.
    """
    V = logits_BV.shape[1]
    lowest_B1 = jnp.full((len(logits_BV), 1), -jnp.inf)
    if settings.top_k_B is not None or settings.top_p_B is not None:
        used_B = jnp.zeros(len(logits_BV), bool)
        if settings.top_k_B is not None:
            used_B |= settings.top_k_B < V
        if settings.top_p_B is not None:
            used_B |= settings.top_p_B < 1
        lowest_B1 = jax.lax.cond(
            jnp.any(used_B),
            lambda logits_BV: jnp.where(
                used_B[:, None], _lowest_kept(logits_BV, settings), -jnp.inf
            ),
            lambda _: lowest_B1,
            logits_BV,
        )
    if settings.min_p_B is not None:
        highest_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
        lowest_B1 = jnp.maximum(lowest_B1, highest_B1 + jnp.log(settings.min_p_B)[:, None])
    return jnp.where(logits_BV >= lowest_B1, logits_BV, -jnp.inf)


def _lowest_kept(logits_BV: jax.Array, settings: RowSettings) -> jax.Array:
    """Return the lowest logit of each row that top-k and top-p keep, float32 [B, 1].

    The `CANDIDATES` likeliest tokens are searched first. If a row keeps more tokens than these, all
    rows are sorted.
    """
    B, V = logits_BV.shape
    whole_B1 = jnp.full((B, 1), V)
    top_k_B1 = whole_B1 if settings.top_k_B is None else jnp.asarray(settings.top_k_B)[:, None]
    top_p_B1 = jnp.ones((B, 1)) if settings.top_p_B is None else settings.top_p_B[:, None]

    def lowest_of_sorted(sorted_BK: jax.Array) -> jax.Array:
        last_B1 = jnp.minimum(top_k_B1, sorted_BK.shape[1]) - 1
        lowest_B1 = jnp.take_along_axis(sorted_BK, last_B1, axis=-1)
        lowest_B1 = jnp.where(top_k_B1 < V, lowest_B1, -jnp.inf)
        total_BV = jnp.where(logits_BV >= lowest_B1, logits_BV, -jnp.inf)
        total_B1 = jax.nn.logsumexp(total_BV, axis=-1, keepdims=True)
        sorted_BK = jnp.where(sorted_BK >= lowest_B1, sorted_BK, -jnp.inf)
        probability_BK = jnp.exp(sorted_BK - total_B1)
        before_BK = jnp.cumsum(probability_BK, axis=-1) - probability_BK
        inside_BK = (before_BK < top_p_B1) & (probability_BK > 0)
        nucleus_B1 = jnp.min(jnp.where(inside_BK, sorted_BK, jnp.inf), axis=-1, keepdims=True)
        # Rows without top-p keep all their tokens, however the long sum is rounded.
        return jnp.where(top_p_B1 == 1, lowest_B1, jnp.maximum(lowest_B1, nucleus_B1))

    def of_all(_: jax.Array) -> jax.Array:
        return lowest_of_sorted(-jnp.sort(-logits_BV, axis=-1))

    if V <= 2 * CANDIDATES:
        return of_all(logits_BV)
    candidates_BK = jax.lax.top_k(logits_BV, CANDIDATES)[0]
    lowest_B1 = lowest_of_sorted(candidates_BK)
    # The least likely candidate is excluded, so no token beyond the candidates is kept.
    is_found_B1 = (lowest_B1 > candidates_BK[:, -1:]) & ((top_k_B1 < CANDIDATES) | (top_k_B1 == V))
    is_off_B1 = (top_k_B1 == V) & (top_p_B1 == 1)
    return jax.lax.cond(jnp.all(is_found_B1 | is_off_B1), lambda _: lowest_B1, of_all, logits_BV)
