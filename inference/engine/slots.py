"""The arrays of all slots, and the functions that change them on the device.

A slot holds one text: its model state, its settings, and what its next step needs. Options that a
slot does not use have values without effect, so that one program serves every mixture of requests.

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
"""Number of steps of a dispatch, at most."""

UNMASKED = np.uint32(0xFFFFFFFF)
"""A word of a mask that allows all of its 32 tokens."""

NOTHING = -1
"""Stands in place of a token in the steps that a slot does not take."""


@struct.dataclass
class SlotArrays:
    """What belongs to each slot besides its model state.

    pending_B: the token that the next step reads, int32. written_B: number of tokens written.
    left_B: number of tokens that may still be written; 0 for a slot that is not writing. keys_B2:
    random keys, uint32. For the penalties: seen_BV, whether the slot's text contains each token,
    bool; counts_BV, how often it was written, int32. logprobs_B: whether log-probabilities are
    wanted, bool. lookup: from what speculation guesses. An array is None if the program is
    compiled without this option.
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
    """All slots on the device: their model states, and their other arrays."""

    model: ModelState
    rows: SlotArrays


def initial_slots(module: Any, rows: SlotArrays, length: int) -> Slots:
    """Return slots with empty states that have room for `length` tokens; `rows`: their arrays."""
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
    """Read the tokens of segment 1 into a model state of one row; return the new state.

    With `targets_1T`, the tokens that follow the tokens read, also return their log-probabilities:
    packed as by `packed_logprobs`, int32 [T, C].
    """
    x_1TD, state = module.hidden(tokens_1T, state=state, segments_BT=segments_1T)
    if targets_1T is None:
        return state, None
    return state, packed_logprobs(module.head(x_1TD)[0], targets_1T[0])


def admit(module: Any, slots: Slots, slot: Array, state: ModelState, row: SlotArrays) -> Slots:
    """Let a slot write from the next step on, from a model state of one row. `row` has the slot's
    arrays, with one row each."""

    def put(x: jax.Array, new: jax.Array, axis: int = 0) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x, new.astype(x.dtype), slot, axis)

    def put_state(axes: Axes, x: jax.Array, new: jax.Array) -> jax.Array:
        axis, shape = axes.index("batch"), list(x.shape)
        shape[axis] = 1
        return put(x, fitted(new, shape), axis)

    model = module.map_state(put_state, slots.model, state)
    return Slots(model, jax.tree.map(put, slots.rows, row))


def take_row(module: Any, slots: Slots, slot: Array, length: int) -> ModelState:
    """Return the model state of one slot, with room for `length` tokens."""
    row = module.map_state(
        lambda axes, x: jax.lax.dynamic_slice_in_dim(x, slot, 1, axes.index("batch")), slots.model
    )
    return with_room(module, row, 1, length)


def resize(module: Any, slots: Slots, kept_B: Array, length: int) -> Slots:
    """Return slots with the contents of the slots `kept_B` (int32 [new B]), in this order, and room
    for `length` tokens each."""
    model = module.map_state(
        lambda axes, x: jnp.take(x, kept_B, axis=axes.index("batch")), slots.model
    )
    rows = jax.tree.map(lambda x: jnp.take(x, kept_B, axis=0), slots.rows)
    return Slots(with_room(module, model, len(kept_B), length), rows)


def with_room(module: Any, state: ModelState, size: int, length: int) -> ModelState:
    """Return a model state of `size` rows with room for `length` tokens; no row has more."""
    shapes = jax.eval_shape(lambda: module.initial_state(size, length))
    return jax.tree.map(lambda x, like: fitted(x, like.shape), state, shapes)


def fitted(x: jax.Array, shape: Sequence[int]) -> jax.Array:
    """Cut or extend with zeros each dimension of an array to `shape`."""
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
    """Take up to `steps` steps with the slots that are `allowed_B` and have tokens left to write.

    A step reads a slot's pending token and draws the next one; drawing `end_id` ends the slot's
    text. Only tokens that are `writable_V` are drawn, and only those whose bit of `masks_BW`
    (uint32) is set: a slot with a mask may take only one step. Returns the slots and what was
    drawn, int32 [B, MOST_STEPS, C]: the token in column 0 (`NOTHING` if the slot took no step), and
    the other columns of `packed_logprobs`.
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
    """Set to -inf the logits whose bit is 0: token v is bit v % 32 of word v // 32."""
    token_V = np.arange(logits_BV.shape[1])
    words_BV = jnp.asarray(masks_BW)[:, token_V // 32]
    return jnp.where(words_BV >> (token_V % 32).astype(np.uint32) & 1, logits_BV, -jnp.inf)


def packed_logprobs(logits_BV: jax.Array, tokens_B: Array) -> jax.Array:
    """Return the tokens' log-probabilities and the likeliest tokens', int32 [B, 2 + 2 K].

    Columns: the token; its log-probability, as the bits of a float32; the K likeliest tokens; their
    log-probabilities.
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
