"""Beam search for the answers of an encoder-decoder model.

Axes: B batch, K beams, R rows (B * K), T length, D width, V vocabulary, C candidates.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

NEVER = -jnp.inf
"""Log-probability of a continuation that is not allowed."""


class Answers(NamedTuple):
    """The best answer of each row.

    tokens: int32 [B, T].
    length: int32 [B], the number of tokens in the answer, including the separator.
    score: float32 [B].
    """

    tokens: jax.Array
    length: jax.Array
    score: jax.Array


class _Search(NamedTuple):
    """The state of the search.

    For each live beam: its last token (the model's next input), its tokens, its total
    log-probability, and the model's state before the last token. For each row: the number of
    finished answers, and the best one.
    """

    step: jax.Array
    last_BK: jax.Array
    tokens_BKT: jax.Array
    total_BK: jax.Array
    state: Any
    finished_B: jax.Array
    best: Answers


def beam_search(
    module: Any,
    memory: Any,
    limits_B: jax.Array,
    writable_V: jax.Array | np.ndarray,
    length_penalty: jax.Array | float,
    *,
    beam_size: int,
    max_length: int,
    separator_id: int,
) -> Answers:
    """Search for the best answer to each of B sources.

    memory: the output of the encoder of `module` for these sources.
    limits_B: int32, the largest length of each answer, at most `max_length`.
    writable_V: bool, the tokens that an answer may contain.

    At each step, every beam of a row is continued by every allowed token. Continuations that end
    with the separator and are among the best `beam_size` are finished; the best unfinished ones
    stay in the beam. A row is done once it has `beam_size` finished answers. The one with the
    highest score is returned:

        log P(answer | source) / ((5 + length) / 6) ** length_penalty

    (Wu et al. 2016, arXiv:1609.08144, eq. 14, without coverage). Lengths include the separator.
    With one beam, this is greedy search. The result of a row does not depend on the other rows.
    """
    B, K = len(limits_B), beam_size
    memory = module.select(memory, jnp.zeros((B, K), jnp.int32))
    no_answer = Answers(
        jnp.full((B, max_length), separator_id, jnp.int32),
        jnp.zeros(B, jnp.int32),
        jnp.full(B, NEVER),
    )
    start = _Search(
        step=jnp.int32(0),
        last_BK=jnp.full((B, K), separator_id, jnp.int32),
        tokens_BKT=jnp.full((B, K, max_length), separator_id, jnp.int32),
        total_BK=jnp.where(jnp.arange(K) == 0, 0.0, NEVER) * jnp.ones((B, 1)),
        state=module.initial_state(memory, max_length),
        finished_B=jnp.zeros(B, jnp.int32),
        best=no_answer,
    )

    def is_unfinished(search: _Search) -> jax.Array:
        return (search.step < max_length) & jnp.any(search.finished_B < K)

    def advance(search: _Search) -> _Search:
        step = search.step
        x_RTD, state = module.hidden(search.last_BK.reshape(B * K, 1), memory, state=search.state)
        logits_BKV = module.head(x_RTD)[:, 0].reshape(B, K, -1)
        is_end_V = jnp.arange(logits_BKV.shape[2]) == separator_id
        allowed_BV = jnp.where((step + 1 >= limits_B)[:, None], is_end_V, writable_V)
        gains_BKV = jnp.where(allowed_BV[:, None], jax.nn.log_softmax(logits_BKV), NEVER)
        totals_BKV = search.total_BK[:, :, None] + gains_BKV

        # Each beam has one candidate that ends, so at least K of the best 2 K candidates continue.
        total_BC, flat_BC = jax.lax.top_k(totals_BKV.reshape(B, -1), min(2 * K, totals_BKV[0].size))
        beam_BC, token_BC = jnp.divmod(flat_BC, logits_BKV.shape[2])
        ends_BC = (token_BC == separator_id) & (total_BC > NEVER)
        finishes_BC = ends_BC & (jnp.arange(total_BC.shape[1]) < K)
        finishes_BC &= (search.finished_B < K)[:, None]
        score_BC = total_BC / ((6.0 + step) / 6.0) ** length_penalty
        score_BC = jnp.where(finishes_BC, score_BC, NEVER)
        best = _better(search.best, search.tokens_BKT, step, beam_BC, score_BC)

        total_BK, place_BK = jax.lax.top_k(jnp.where(ends_BC, NEVER, total_BC), K)
        beam_BK = jnp.take_along_axis(beam_BC, place_BK, axis=1)
        token_BK = jnp.take_along_axis(token_BC, place_BK, axis=1)
        tokens_BKT = jnp.take_along_axis(search.tokens_BKT, beam_BK[:, :, None], axis=1)
        return _Search(
            step=step + 1,
            last_BK=token_BK,
            tokens_BKT=jax.lax.dynamic_update_index_in_dim(tokens_BKT, token_BK, step, axis=2),
            total_BK=total_BK,
            state=state if K == 1 else module.select(state, beam_BK),
            finished_B=search.finished_B + jnp.sum(finishes_BC, axis=1),
            best=best,
        )

    return jax.lax.while_loop(is_unfinished, advance, start).best


def _better(
    best: Answers,
    tokens_BKT: jax.Array,
    step: jax.Array,
    beam_BC: jax.Array,
    score_BC: jax.Array,
) -> Answers:
    """Return the best answer of each row: the best so far, or a better one that ends at `step`."""
    place_B1 = jnp.argmax(score_BC, axis=1, keepdims=True)
    score_B = jnp.take_along_axis(score_BC, place_B1, axis=1)[:, 0]
    beam_B1 = jnp.take_along_axis(beam_BC, place_B1, axis=1)
    tokens_BT = jnp.take_along_axis(tokens_BKT, beam_B1[:, :, None], axis=1)[:, 0]
    is_new_B = score_B > best.score
    return Answers(
        jnp.where(is_new_B[:, None], tokens_BT, best.tokens),
        jnp.where(is_new_B, step + 1, best.length),
        jnp.where(is_new_B, score_B, best.score),
    )
