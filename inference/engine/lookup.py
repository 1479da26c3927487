"""Guesses the next tokens of each text from what it contains already (prompt look-up decoding).

The tokens of a text and of its prediction are kept on the device. The guess is what followed the
latest of those earlier places that equal the end of the text for the largest number of tokens.
Guessing stops for a while in texts where it is seldom right.

Axes: B slots, L room for a text, D draft, M length of a match, T tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from inference.sampling import Array

DRAFT = 7
"""Number of tokens that are guessed at a time, at most; not more than
`model.layers.attention.RING_SLACK`."""

LONGEST_MATCH, SHORTEST_MATCH = 8, 2
"""Number of equal tokens that are looked for, and that a guess needs."""

FIRST_GAIN, PREDICTED_GAIN = 1.5, 4.0
"""Gains assumed for a new text, without and with a prediction: after one wrong guess, or three,
guessing stops."""

RECOVERY = 1 / 512
"""What a slot's gain grows by at each step without guess, for each token of the match: a text that
guessing failed for is tried again after 16 to 128 such steps."""

TEXT_ROOM = 4096
"""Number of tokens of a text that are looked up, if the context is unlimited."""

BETWEEN = -1
"""Stands between prediction and prompt."""


@struct.dataclass
class Lookup:
    """Where the tokens of each slot's text are looked up.

    text_BL: int32, the prediction (after the last tokens of the prompt, which it follows), the
    prompt, and what was written. length_B: the number of these tokens, int32; a text longer than L
    is no longer looked up. gain_B: average number of right tokens in the last guesses, as a
    multiple of `least_gain`, float32; -inf in slots for which nothing is guessed.
    """

    text_BL: Array
    length_B: Array
    gain_B: Array


@struct.dataclass
class Draft:
    """Guessed tokens: tokens_BD, of which length_B are meant; match_B is the length of the match
    that they follow, 0 without a guess; int32."""

    tokens_BD: jax.Array
    length_B: jax.Array
    match_B: jax.Array


def least_gain(slots: int, *, can_rewind: bool) -> float:
    """Return the number of right tokens in each slot's guess that make up for the longer step.

    On a processor, a step of n positions takes about 7 + n units of time: the weights are read
    once, the products grow with n. If the model's state can't be rewound, a wrong guess takes two
    such steps.
    """
    return DRAFT * slots / (slots + 7) * (1 if can_rewind else 2)


def idle_lookup(room: int) -> Lookup:
    """Return the arrays of one slot for which nothing is guessed, on the host."""
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

    prompt, written, prediction: tokens. room: L. If it is too small, the end of the prediction is
    left out, then the beginning of the text.
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

    If the text has repeated itself since the place that was found, the guess goes on repeating.
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
    """Append the first `count_B` of the tokens to each text."""
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
    """Update the gains: of slots whose draft of `drafted_B` tokens was right for `accepted_B`
    tokens, and of those that had a match and no draft. least: the `least_gain`."""
    gain_B = jnp.asarray(lookup.gain_B)
    observed_B = accepted_B / least
    # A draft that was cut short and right tells little: it might have been right for longer.
    is_right_B = accepted_B == drafted_B
    observed_B = jnp.where(is_right_B, jnp.maximum(gain_B, observed_B), observed_B)
    recovered_B = jnp.where(gain_B < 1, gain_B + RECOVERY * match_B, gain_B)
    return replace(lookup, gain_B=jnp.where(drafted_B > 0, (gain_B + observed_B) / 2, recovered_B))
