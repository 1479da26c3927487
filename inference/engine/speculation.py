"""Speculative decoding: a step reads several guessed tokens at once and keeps the right ones.

A guessed token is right if it equals the token that the slot draws at this position with its own
key and settings. So texts are the same as without speculation, whatever the guesses are.

Axes: B slots, T tokens of a step (the pending one and the draft), D draft, V vocabulary, W words of
a bit mask, S tokens of a dispatch, C columns.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from inference.engine.lookup import draft, learned, least_gain, recorded
from inference.engine.slots import (
    ALTERNATIVES,
    MOST_STEPS,
    NOTHING,
    UNMASKED,
    SlotArrays,
    Slots,
    masked,
    packed_logprobs,
)
from inference.sampling import Array, sample
from model.layers.states import ModelState

FEW = 2
"""If every slot keeps at most this many tokens of a step, a short step reads them again. This is
the usual case: most wrong drafts are wrong from their first token on."""


@struct.dataclass
class _Output:
    """The results of a dispatch so far.

    columns_BSC: int32, as `inference.engine.slots.decode` returns them.
    written_B: int32, the number of generated tokens.
    accepted_B: int32, the number of guessed tokens that were right.
    drafted_B: int32, the number of guessed tokens that were read.
    """

    columns_BSC: jax.Array
    written_B: jax.Array
    accepted_B: jax.Array
    drafted_B: jax.Array


@struct.dataclass
class _Plan:
    """The inputs of the next step.

    active_B: bool, the slots that take the step.
    draft_BD: int32, guessed tokens.
    drafted_B: int32, how many of them the step reads.
    match_B: int32, as in `Draft`; 0 in slots that are not active.
    is_worth_it: bool scalar, whether reading guessed tokens is expected to save time.
    """

    active_B: jax.Array
    draft_BD: jax.Array
    drafted_B: jax.Array
    match_B: jax.Array
    is_worth_it: jax.Array

    def without_draft(self) -> "_Plan":
        """Return the plan of a step that reads no guessed tokens."""
        nothing_B = jnp.zeros_like(self.drafted_B)
        return replace(self, draft_BD=self.draft_BD[:, :0], drafted_B=nothing_B)


def speculate(
    module: Any,
    slots: Slots,
    allowed_B: Array,
    steps: Array,
    masks_BW: Array | None,
    *,
    end_id: int,
    writable_V: np.ndarray,
) -> tuple[Slots, jax.Array]:
    """Generate at least `steps` and at most `MOST_STEPS` tokens in each slot that is allowed,
    unless its text ends before. A slot with a mask generates one token.

    Arguments and results are those of `inference.engine.slots.decode`, except that `steps` may
    exceed 1 beside a slot with a mask, and that the returned array has two more rows, int32
    [B, MOST_STEPS + 2, C]. In column 0, the first of them has the number of guessed tokens that
    were right, the second the number of those that were wrong.
    """
    B = len(slots.rows.pending_B)
    room_B = jnp.full(B, MOST_STEPS)
    if masks_BW is not None:
        room_B = jnp.where(jnp.all(masks_BW == UNMASKED, axis=1), room_B, 1)
    least = least_gain(B, can_rewind=module.can_rewind)
    step = partial(
        _step, module, least=least, masks_BW=masks_BW, end_id=end_id, writable_V=writable_V
    )

    def with_plan(slots: Slots, output: _Output) -> tuple[Slots, _Output, _Plan]:
        return slots, output, _plan(slots.rows, output.written_B, allowed_B, room_B, least)

    def goes_on(carry) -> jax.Array:
        _, output, plan = carry
        return jnp.any(plan.active_B & (output.written_B < steps))

    def one(carry):
        slots, output, plan = carry
        return with_plan(*step(slots, output, plan.without_draft()))

    def several(carry):
        return with_plan(*step(*carry))

    def advance(carry):
        # Two loops instead of one with `jax.lax.cond`, which would copy the model's state.
        carry = jax.lax.while_loop(lambda c: goes_on(c) & ~c[2].is_worth_it, one, carry)
        return jax.lax.while_loop(lambda c: goes_on(c) & c[2].is_worth_it, several, carry)

    columns = 2 + 2 * ALTERNATIVES if slots.rows.logprobs_B is not None else 1
    nothing_BSC = jnp.full((B, MOST_STEPS, columns), NOTHING, jnp.int32)
    zeros_B = jnp.zeros(B, jnp.int32)
    carry = with_plan(slots, _Output(nothing_BSC, zeros_B, zeros_B, zeros_B))
    slots, output, _ = jax.lax.while_loop(goes_on, advance, carry)
    counts_B2 = jnp.stack([output.accepted_B, output.drafted_B - output.accepted_B], axis=1)
    counts_B2C = jnp.pad(counts_B2[:, :, None], ((0, 0), (0, 0), (0, columns - 1)))
    return slots, jnp.concatenate([output.columns_BSC, counts_B2C], axis=1)


def _plan(
    rows: SlotArrays, written_B: jax.Array, allowed_B: Array, room_B: Array, least: float
) -> _Plan:
    """Guess the next tokens, and decide whether the next step reads them.

    written_B: int32, the number of tokens that each slot has generated in this dispatch.
    room_B: int32, the largest number of tokens that each slot may generate in this dispatch.
    least: the `least_gain`.
    """
    assert rows.lookup is not None
    guess = draft(rows.lookup)
    active_B = jnp.asarray(allowed_B & (rows.left_B > 0) & (written_B < room_B))
    room_left_B = jnp.minimum(rows.left_B, room_B - written_B) - 1
    drafted_B = jnp.where(active_B, jnp.minimum(guess.length_B, room_left_B), 0)
    gain_B = jnp.minimum(rows.lookup.gain_B, drafted_B / least)
    gain = jnp.sum(gain_B, where=drafted_B > 0)
    return _Plan(
        active_B=active_B,
        draft_BD=guess.tokens_BD,
        drafted_B=drafted_B,
        match_B=jnp.where(active_B, guess.match_B, 0),
        is_worth_it=(gain > 0) & (gain >= jnp.sum(active_B)),
    )


def _step(
    module: Any,
    slots: Slots,
    output: _Output,
    plan: _Plan,
    *,
    least: float,
    masks_BW: Array | None,
    end_id: int,
    writable_V: np.ndarray,
) -> tuple[Slots, _Output]:
    """Read the pending tokens and the drafts, and draw a token after each of them.

    Each active slot keeps its drawn tokens up to and including the first one that differs from its
    draft or ends the text. If there is none, it keeps all of them: one more than the draft has.
    """
    rows, active_B, draft_BD = slots.rows, plan.active_B, plan.draft_BD
    assert rows.lookup is not None
    tokens_BT = jnp.concatenate([rows.pending_B[:, None], draft_BD], axis=1)
    B, T = tokens_BT.shape
    real_BT = active_B[:, None] & (jnp.arange(T) <= plan.drafted_B[:, None])
    logits_BTV, after = module(tokens_BT, state=slots.model, segments_BT=real_BT.astype(jnp.int32))
    allowed_BTV = logits_BTV + jnp.where(writable_V, 0.0, -jnp.inf)
    if masks_BW is not None:  # A slot with a mask has no draft.
        has_mask, first_BV = jnp.any(masks_BW != UNMASKED), allowed_BTV[:, 0]
        first_BV = jax.lax.cond(has_mask, masked, lambda x, _: x, first_BV, masks_BW)
        allowed_BTV = allowed_BTV.at[:, 0].set(first_BV)
    drawn_BT = _draw(allowed_BTV, slots, draft_BD)

    is_right_BD = (drawn_BT[:, :-1] == draft_BD) & (drawn_BT[:, :-1] != end_id)
    is_right_BD &= real_BT[:, 1:]
    accepted_B = jnp.sum(jnp.cumprod(is_right_BD, axis=1), axis=1, dtype=jnp.int32)
    count_B = jnp.where(active_B, accepted_B + 1, 0)
    kept_BT = jnp.arange(T) < count_B[:, None]
    last_B = jnp.take_along_axis(drawn_BT, accepted_B[:, None], axis=1)[:, 0]

    rows_B1 = jnp.arange(B)[:, None]
    columns_BTC = _columns(logits_BTV, drawn_BT, active_B, rows.logprobs_B)
    place_BT = jnp.where(kept_BT, output.written_B[:, None] + jnp.arange(T), MOST_STEPS)
    output = _Output(
        output.columns_BSC.at[rows_B1, place_BT].set(columns_BTC, mode="drop"),
        output.written_B + count_B,
        output.accepted_B + accepted_B,
        output.drafted_B + plan.drafted_B,
    )
    seen_BV, counts_BV = rows.seen_BV, rows.counts_BV
    if seen_BV is not None:
        seen_BV = jnp.asarray(seen_BV).at[rows_B1, drawn_BT].max(kept_BT)
    if counts_BV is not None:
        counts_BV = jnp.asarray(counts_BV).at[rows_B1, drawn_BT].add(kept_BT.astype(jnp.int32))
    lookup = learned(rows.lookup, plan.match_B, plan.drafted_B, accepted_B, least)
    rows = replace(
        rows,
        pending_B=jnp.where(active_B, last_B, rows.pending_B),
        written_B=rows.written_B + count_B,
        left_B=jnp.where(active_B & (last_B == end_id), 0, rows.left_B - count_B),
        seen_BV=seen_BV,
        counts_BV=counts_BV,
        lookup=recorded(lookup, drawn_BT, count_B),
    )
    model = _state_after(module, slots.model, after, tokens_BT, real_BT, kept_BT)
    return Slots(model, rows), output


def _draw(logits_BTV: jax.Array, slots: Slots, draft_BD: jax.Array) -> jax.Array:
    """Draw the token after each position of a step, int32 [B, T], as if the tokens before it had
    been generated one by one."""
    B, T, V = logits_BTV.shape
    rows_B11 = jnp.arange(B)[:, None, None]
    position_T1 = jnp.arange(T)[:, None]
    # Position t comes after the first t tokens of the draft. The index V drops the others.
    token_BTD = jnp.where(jnp.arange(T - 1) < position_T1, draft_BD[:, None], V)

    def with_draft(x_BV: Array | None) -> jax.Array | None:
        if x_BV is None:
            return None
        x_BTV = jnp.broadcast_to(jnp.asarray(x_BV)[:, None], (B, T, V))
        at = x_BTV.at[rows_B11, position_T1, token_BTD]
        is_count = x_BTV.dtype != bool
        x_BTV = at.add(1, mode="drop") if is_count else at.set(True, mode="drop")
        return x_BTV.reshape(B * T, V)

    def each(x: Array) -> jax.Array:
        return jnp.repeat(jnp.asarray(x), T, axis=0)

    count_BT = slots.rows.written_B[:, None] + jnp.arange(T)
    drawn = sample(
        logits_BTV.reshape(B * T, V),
        each(slots.rows.keys_B2),
        count_BT.reshape(B * T),
        jax.tree.map(each, slots.rows.settings),
        with_draft(slots.rows.seen_BV),
        with_draft(slots.rows.counts_BV),
    )
    return drawn.reshape(B, T)


def _columns(
    logits_BTV: jax.Array, drawn_BT: jax.Array, active_B: jax.Array, logprobs_B: Array | None
) -> jax.Array:
    """Return the drawn tokens, int32 [B, T, C]. If the program has log-probabilities, they are
    followed by the other columns of `packed_logprobs`, which are 0 if no slot needs them."""
    B, T, V = logits_BTV.shape
    tokens_BT1 = drawn_BT[:, :, None]
    if logprobs_B is None:
        return tokens_BT1

    def scored(logits_BTV: jax.Array) -> jax.Array:
        packed = packed_logprobs(logits_BTV.reshape(B * T, V), drawn_BT.reshape(B * T))
        return packed.reshape(B, T, -1)

    def unscored(_: jax.Array) -> jax.Array:
        return jnp.pad(tokens_BT1, ((0, 0), (0, 0), (0, 1 + 2 * ALTERNATIVES)))

    return jax.lax.cond(jnp.any(active_B & logprobs_B), scored, unscored, logits_BTV)


def _state_after(
    module: Any,
    before: ModelState,
    after: ModelState,
    tokens_BT: jax.Array,
    real_BT: jax.Array,
    kept_BT: jax.Array,
) -> ModelState:
    """Return the model state after the tokens that are kept.

    before, after: the states before the step, and after all tokens that it read.
    real_BT, kept_BT: bool, which of `tokens_BT` the step read, and which of them are kept.

    If all mixers are attention, the state is rewound to the kept tokens. Otherwise the kept tokens
    are read again from the state before the step, unless all tokens are kept.
    """
    T = tokens_BT.shape[1]
    if T == 1:
        return after
    length_B = before["length"] + jnp.sum(kept_BT, axis=1, dtype=jnp.int32)
    if module.can_rewind:
        return module.rewind(after, before, length_B)

    def again(width: int, carry: tuple[jax.Array, ModelState]) -> tuple[jax.Array, ModelState]:
        start = module.rewind(carry[1], before, before["length"])
        segments_BT = kept_BT[:, :width].astype(jnp.int32)
        _, state = module.hidden(tokens_BT[:, :width], state=start, segments_BT=segments_BT)
        return jnp.bool(False), state

    some_wrong = jnp.any(real_BT != kept_BT)
    are_few = jnp.all(~kept_BT[:, FEW:])
    for width, is_needed in ((FEW, some_wrong & are_few), (T, some_wrong & ~are_few)):
        # A loop that runs once or not at all: `jax.lax.cond` would copy the caches.
        carry = (is_needed, after)
        _, after = jax.lax.while_loop(lambda carry: carry[0], partial(again, width), carry)
    return after
