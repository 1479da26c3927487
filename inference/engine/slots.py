"""The arrays of all slots, and the functions that change them on the device.

A slot holds one text: its model state, its settings, and the inputs of its next step. Options that
a slot does not use have values without effect, so that one program serves every mixture of
requests.

Axes: B slots, T length, V vocabulary, W words of a bit mask, S steps, C columns, K alternatives.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from inference.engine.lookup import Lookup, recorded
from inference.sampling import Array, RowSettings, sample
from model.layers.sharding import Axes
from model.layers.states import ModelState

ALTERNATIVES = 20
"""Number of likeliest tokens whose log-probabilities are returned at each position."""

MOST_STEPS = 32
"""Largest number of tokens that a slot generates in a dispatch."""

UNMASKED = np.uint32(0xFFFFFFFF)
"""A word of a mask that allows all of its 32 tokens."""

NOTHING = -1
"""Stands for a missing token, for example in a step that a slot does not take."""


@struct.dataclass
class SlotArrays:
    """The arrays of each slot besides its model state. An array is None if the program is compiled
    without its option.

    pending_B: int32, the last token of the text, which the next step reads.
    written_B: int32, the number of generated tokens.
    left_B: int32, the number of tokens that may still be generated; 0 for an idle slot.
    keys_B2: uint32, random keys.
    settings: the settings for sampling.
    seen_BV: bool, whether each token occurs in the prompt or the text, for the repetition penalty.
    counts_BV: int32, how often each token was generated, for the frequency and presence penalties.
    logprobs_B: bool, whether the request asks for log-probabilities.
    lookup: the tokens from which speculation guesses.
    """

    pending_B: Array
    written_B: Array
    left_B: Array
    keys_B2: Array
    settings: RowSettings
    seen_BV: Array | None
    counts_BV: Array | None
    logprobs_B: Array | None
    lookup: Lookup | None


@struct.dataclass
class Slots:
    """All slots on the device: their model states (`model`) and their other arrays (`rows`)."""

    model: ModelState
    rows: SlotArrays


def initial_slots(module: Any, rows: SlotArrays, length: int) -> Slots:
    """Return slots with the arrays `rows` and empty states with room for `length` tokens."""
    state = module.initial_state(len(rows.pending_B), length)
    return Slots(state, jax.tree.map(jnp.asarray, rows))


def initial_row(module: Any, length: int) -> ModelState:
    """Return an empty model state of one row with room for `length` tokens."""
    return module.initial_state(1, length)


def prefill(
    module: Any,
    state: ModelState,
    tokens_1T: Array,
    segments_1T: Array,
    targets_1T: Array | None = None,
) -> tuple[ModelState, jax.Array | None]:
    """Read tokens into a model state of one row.

    tokens_1T: int32.
    segments_1T: int32, 1 for a token, 0 for padding.
    targets_1T: int32, the token that follows each token; None if no scores are needed.

    Returns the new state and the log-probabilities of the targets, int32 [T, C], in the format of
    `packed_logprobs`; None without targets.
    """
    x_1TD, state = module.hidden(tokens_1T, state=state, segments_BT=segments_1T)
    if targets_1T is None:
        return state, None
    return state, packed_logprobs(module.head(x_1TD)[0], targets_1T[0])


def admit(module: Any, slots: Slots, slot: Array, state: ModelState, row: SlotArrays) -> Slots:
    """Return the slots with a new text in one of them, which generates from the next step on.

    slot: int32 scalar, the number of the slot.
    state: a model state of one row, after all tokens of the text so far except the last.
    row: the slot's arrays, with one row each.
    """

    def put(x: jax.Array, new: jax.Array, axis: int = 0) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new.astype(x.dtype), slot, axis)

    def put_state(axes: Axes, x: jax.Array, new: jax.Array) -> jax.Array:
        axis, shape = axes.index("batch"), list(x.shape)
        shape[axis] = 1
        return put(x, fitted(new, shape), axis)

    model = module.map_state(put_state, slots.model, state)
    return Slots(model, jax.tree.map(put, slots.rows, row))


def take_row(module: Any, slots: Slots, slot: Array, length: int) -> ModelState:
    """Return the model state of slot number `slot` as one row, with room for `length` tokens."""
    row = module.map_state(
        lambda axes, x: jax.lax.dynamic_slice_in_dim(x, slot, 1, axes.index("batch")), slots.model
    )
    return with_room(module, row, 1, length)


def resize(module: Any, slots: Slots, kept_B: Array, length: int) -> Slots:
    """Return slots with the contents of the slots whose numbers are `kept_B` (int32 [new B]), in
    this order, with room for `length` tokens each."""
    model = module.map_state(
        lambda axes, x: jnp.take(x, kept_B, axis=axes.index("batch")), slots.model
    )
    rows = jax.tree.map(lambda x: jnp.take(x, kept_B, axis=0), slots.rows)
    return Slots(with_room(module, model, len(kept_B), length), rows)


def with_room(module: Any, state: ModelState, size: int, length: int) -> ModelState:
    """Return the model state of `size` rows with room for `length` tokens. No row may hold more."""
    shapes = jax.eval_shape(lambda: module.initial_state(size, length))
    return jax.tree.map(lambda x, like: fitted(x, like.shape), state, shapes)


def fitted(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Return an array cut, or padded with zeros at the end of each dimension, to `shape`."""
    cut = x[tuple(slice(size) for size in shape)]
    missing = [(0, size - own) for size, own in zip(shape, cut.shape, strict=True)]
    return jnp.pad(cut, missing) if any(after for _, after in missing) else cut


def decode(
    module: Any,
    slots: Slots,
    allowed_B: Array,
    steps: Array,
    masks_BW: Array | None,
    *,
    end_id: int,
    writable_V: np.ndarray,
) -> tuple[Slots, jax.Array]:
    """Take up to `steps` steps with the slots that are allowed and have tokens left to generate.

    A step reads each slot's pending token and draws the next one. Drawing `end_id` ends the slot's
    text.

    allowed_B: bool, the slots that take steps.
    steps: int32 scalar, at most `MOST_STEPS`. It must be 1 if a slot has a mask, because a mask is
        for one token.
    masks_BW: uint32, the tokens that each slot may draw, in the format of `masked`; None for no
        masks.
    writable_V: bool, the tokens that any slot may draw.

    Returns the slots and the drawn tokens, int32 [B, MOST_STEPS, C]. Column 0 is the token
    (`NOTHING` if the slot took no step). If the program has log-probabilities, the others are those
    of `packed_logprobs`.
    """
    B = len(slots.rows.pending_B)
    rows_B = jnp.arange(B)
    with_logprobs = slots.rows.logprobs_B is not None
    columns = 2 + 2 * ALTERNATIVES if with_logprobs else 1
    unmasked_V = jnp.where(writable_V, 0.0, -jnp.inf)

    def goes_on(carry):
        step, slots, _ = carry
        return (step < steps) & jnp.any(allowed_B & (slots.rows.left_B > 0))

    def advance(carry):
        step, slots, drawn_SBC = carry
        rows = slots.rows
        active_B = allowed_B & (rows.left_B > 0)
        logits_BTV, model = module(
            rows.pending_B[:, None],
            state=slots.model,
            segments_BT=active_B[:, None].astype(jnp.int32),
        )
        raw_BV = logits_BTV[:, 0]
        logits_BV = raw_BV + unmasked_V
        if masks_BW is not None:
            has_mask = jnp.any(masks_BW != UNMASKED)
            logits_BV = jax.lax.cond(has_mask, masked, lambda x, _: x, logits_BV, masks_BW)
        token_B = sample(
            logits_BV, rows.keys_B2, rows.written_B, rows.settings, rows.seen_BV, rows.counts_BV
        )
        row_BC = jnp.where(active_B, token_B, NOTHING)[:, None]
        if rows.logprobs_B is not None:
            row_BC = jax.lax.cond(
                jnp.any(active_B & rows.logprobs_B),
                lambda raw_BV: jnp.concatenate(
                    [row_BC, packed_logprobs(raw_BV, token_B)[:, 1:]], 1
                ),
                lambda _: jnp.pad(row_BC, ((0, 0), (0, columns - 1))),
                raw_BV,
            )
        drawn_SBC = jax.lax.dynamic_update_slice(drawn_SBC, row_BC[None], (step, 0, 0))
        seen_BV, counts_BV = rows.seen_BV, rows.counts_BV
        if seen_BV is not None:
            seen_BV = seen_BV.at[rows_B, token_B].max(active_B)
        if counts_BV is not None:
            counts_BV = counts_BV.at[rows_B, token_B].add(active_B.astype(jnp.int32))
        if rows.lookup is not None:
            rows = rows.replace(lookup=recorded(rows.lookup, token_B[:, None], active_B))
        ended_B = active_B & (token_B == end_id)
        rows = rows.replace(
            pending_B=jnp.where(active_B, token_B, rows.pending_B),
            written_B=rows.written_B + active_B,
            left_B=jnp.where(ended_B, 0, rows.left_B - active_B),
            seen_BV=seen_BV,
            counts_BV=counts_BV,
        )
        return step + 1, Slots(model, rows), drawn_SBC

    nothing_SBC = jnp.full((MOST_STEPS, B, columns), NOTHING, jnp.int32)
    _, slots, drawn_SBC = jax.lax.while_loop(goes_on, advance, (jnp.int32(0), slots, nothing_SBC))
    return slots, drawn_SBC.swapaxes(0, 1)


def masked(logits_BV: jax.Array, masks_BW: Array) -> jax.Array:
    """Return the logits, with -inf for the tokens whose bit is 0: for token v, bit v % 32 of word
    v // 32."""
    token_V = np.arange(logits_BV.shape[1])
    words_BV = jnp.asarray(masks_BW)[:, token_V // 32]
    return jnp.where(words_BV >> (token_V % 32).astype(np.uint32) & 1, logits_BV, -jnp.inf)


def packed_logprobs(logits_BV: jax.Array, tokens_B: Array) -> jax.Array:
    """Return the log-probabilities of `tokens_B` and of the likeliest tokens, int32 [B, 2 + 2 K].

    Columns: the token; its log-probability in nats, as the bits of a float32; the K likeliest
    tokens; their log-probabilities in the same format.
    """
    logprobs_BV = jax.nn.log_softmax(logits_BV)
    own_B1 = jnp.take_along_axis(logprobs_BV, tokens_B[:, None], axis=1)
    count = min(ALTERNATIVES, logits_BV.shape[1])
    top_BK, token_BK = jax.lax.top_k(logprobs_BV, count)
    missing = ((0, 0), (0, ALTERNATIVES - count))
    bits = [
        jax.lax.bitcast_convert_type(x, jnp.int32)
        for x in (own_B1, jnp.pad(top_BK, missing, constant_values=-jnp.inf))
    ]
    token_BK = jnp.pad(token_BK, missing, constant_values=NOTHING)
    return jnp.concatenate([tokens_B[:, None], bits[0], token_BK, bits[1]], axis=1)
