"""Guesses the next tokens of each text from its earlier tokens (prompt lookup decoding).

The tokens of each text and of its prediction are kept on the device. The last tokens of the text
are searched for in it. The guess is a copy of the tokens after the longest match; of equally long
ones, the latest counts. Guessing pauses in texts whose guesses are seldom right.

Axes: B slots, L capacity for a text, D draft, M length of a match, T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from inference.sampling import Array

DRAFT = 7
"""Largest number of tokens that are guessed at a time. It must not exceed
`model.layers.attention.RING_SLACK`."""

LONGEST_MATCH, SHORTEST_MATCH = 8, 2
"""Largest number of equal tokens that are searched for, and smallest number that a guess needs."""

FIRST_GAIN, PREDICTED_GAIN = 1.5, 4.0
"""Gains (`Lookup.gain_B`) assumed for a new text, without and with a prediction. So guessing pauses
after one wrong guess, or after three."""

RECOVERY = 1 / 512
"""Growth of a slot's gain at each step that finds a match but reads no guess, for each token of the
match. So guessing resumes after 16 to 128 such steps."""

TEXT_ROOM = 4096
"""Capacity L, in tokens, if the context is unlimited."""

BETWEEN = -1
"""Stands between prediction and prompt, and in unused places."""


@struct.dataclass
class Lookup:
    """The tokens in which each slot's last tokens are searched for.

    text_BL: int32. If there is a prediction: the last tokens of the prompt, which precede it, the
        prediction, and `BETWEEN`. Then the prompt and the generated tokens.
    length_B: int32, the number of these tokens. Nothing is guessed for a text longer than L.
    gain_B: float32, a moving average of the number of right tokens in a guess, divided by
        `least_gain`; -inf in slots without speculation.
    """

    text_BL: Array
    length_B: Array
    gain_B: Array


@struct.dataclass
class Draft:
    """The guess for each slot, int32.

    tokens_BD: the guessed tokens, of which only the first `length_B` count.
    match_B: the number of tokens in the match; 0 without a match.
    """

    tokens_BD: jax.Array
    length_B: jax.Array
    match_B: jax.Array


def least_gain(slots: int, *, can_rewind: bool) -> float:
    """Return how many guessed tokens per slot must be right, on average, to be worth a longer step.

    On a CPU, a step that reads n positions takes about 7 + n units of time: the weights are read
    once, and the products grow with n. If the model's state can't be rewound, a wrong guess costs
    two such steps.
    """
    return DRAFT * slots / (slots + 7) * (1 if can_rewind else 2)


def idle_lookup(room: int) -> Lookup:
    """Return the arrays of one slot without speculation, on the host. room: L."""
    text_1L = np.full((1, room), BETWEEN, np.int32)
    return Lookup(text_1L, np.zeros(1, np.int32), np.full(1, -np.inf, np.float32))


def lookup_of(
    prompt: Sequence[int],
    written: Sequence[int],
    prediction: Sequence[int],
    *,
    room: int,
    left: int,
) -> Lookup:
    """Return the arrays of one slot for a text that may grow by `left` tokens, on the host.

    prompt, written, prediction: ids of tokens.
    room: L. If it is too small, the end of the prediction is left out first, then the beginning of
        the text.
    """
    text = [*prompt, *written][-max(room - left, room // 2) :]
    gain = FIRST_GAIN
    if prediction:
        opening = prompt[-LONGEST_MATCH:]
        fits = max(room - left - len(text) - len(opening) - 1, 0)
        gain = PREDICTED_GAIN
        text = [*opening, *prediction[:fits], BETWEEN, *text] if fits else text
    text_1L = np.full((1, room), BETWEEN, np.int32)
    text_1L[0, : len(text)] = text
    return Lookup(text_1L, np.array([len(text)], np.int32), np.array([gain], np.float32))


def draft(lookup: Lookup) -> Draft:
    """Guess the tokens that follow each text.

    If fewer than `DRAFT` tokens come after the match, the guess repeats them.
    """
    text_BL, length_B = jnp.asarray(lookup.text_BL), jnp.asarray(lookup.length_B)
    L = text_BL.shape[1]
    last_BM = length_B[:, None] - 1 - jnp.arange(LONGEST_MATCH)
    token_BM = jnp.take_along_axis(text_BL, last_BM, axis=1, mode="clip")
    is_token_BM = (last_BM >= 0) & (token_BM >= 0)
    padded_BL = jnp.pad(text_BL, ((0, 0), (LONGEST_MATCH - 1, 0)), constant_values=BETWEEN)
    equal_BL = jnp.arange(L) < length_B[:, None] - 1
    match_BL = jnp.zeros(text_BL.shape, jnp.int32)
    for back in range(LONGEST_MATCH):  # Place j matches if the tokens up to it equal the last ones.
        start = LONGEST_MATCH - 1 - back
        is_same_BL = padded_BL[:, start : start + L] == token_BM[:, back, None]
        equal_BL &= is_same_BL & is_token_BM[:, back, None]
        match_BL += equal_BL
    place_B1 = jnp.argmax(match_BL * L + jnp.arange(L), axis=1)[:, None]
    match_B = jnp.take_along_axis(match_BL, place_B1, axis=1)[:, 0]
    period_B1 = jnp.maximum(length_B[:, None] - 1 - place_B1, 1)
    follows_BD = place_B1 + 1 + jnp.arange(DRAFT) % period_B1
    tokens_BD = jnp.take_along_axis(text_BL, follows_BD, axis=1, mode="clip")
    is_found_B = (match_B >= SHORTEST_MATCH) & (length_B <= L) & (lookup.gain_B > -jnp.inf)
    meant_BD = jnp.cumprod(tokens_BD >= 0, axis=1) * is_found_B[:, None]
    return Draft(
        jnp.maximum(tokens_BD, 0),
        jnp.sum(meant_BD, axis=1, dtype=jnp.int32),
        jnp.where(is_found_B, match_B, 0),
    )


def recorded(lookup: Lookup, tokens_BT: jax.Array, count_B: jax.Array) -> Lookup:
    """Return the lookup after appending the first `count_B` of `tokens_BT` (int32) to each text."""
    B, T = tokens_BT.shape
    L = lookup.text_BL.shape[1]
    place_BT = lookup.length_B[:, None] + jnp.arange(T)
    place_BT = jnp.where(jnp.arange(T) < count_B[:, None], place_BT, L)
    text_BL = jnp.asarray(lookup.text_BL).at[jnp.arange(B)[:, None], place_BT]
    return replace(
        lookup,
        text_BL=text_BL.set(tokens_BT, mode="drop"),
        length_B=lookup.length_B + count_B.astype(jnp.int32),
    )


def learned(
    lookup: Lookup, match_B: jax.Array, drafted_B: jax.Array, accepted_B: jax.Array, least: float
) -> Lookup:
    """Return the lookup with new gains. In a slot that read a draft, the gain is the average of the
    old one and that of the draft. In any other slot, a gain below 1 grows by `RECOVERY` for each
    token of the match.

    match_B: the number of tokens in the match.
    drafted_B, accepted_B: the number of guessed tokens that were read, and how many were right.
    least: the `least_gain`.
    """
    gain_B = jnp.asarray(lookup.gain_B)
    observed_B = accepted_B / least
    # A draft that was right to its end does not lower the gain: a longer one might have been right.
    is_right_B = accepted_B == drafted_B
    observed_B = jnp.where(is_right_B, jnp.maximum(gain_B, observed_B), observed_B)
    recovered_B = jnp.where(gain_B < 1, gain_B + RECOVERY * match_B, gain_B)
    return replace(lookup, gain_B=jnp.where(drafted_B > 0, (gain_B + observed_B) / 2, recovered_B))
