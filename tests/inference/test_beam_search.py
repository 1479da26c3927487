"""Beam search against one that is written out, answer by answer."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inference.beam_search import beam_search
from model.layers.states import select_rows

V, END, LONGEST, SOURCES = 7, 2, 9, 6
WRITABLE = np.arange(V) != 5
LIMITS = np.array([9, 9, 6, 9, 1, 8], np.int32)
TABLE = 2.5 * np.random.default_rng(2).normal(size=(SOURCES, V, V, V)).astype(np.float32)
TABLE[..., END] -= 1.5
"""Logits of the next token, by source and the last two tokens."""


class Trigrams:
    """An encoder-decoder whose memory is the number of the source, whose state the last token."""

    def select(self, kept, chosen_BK):
        return select_rows(kept, chosen_BK)

    def initial_state(self, memory, max_length):
        return jnp.full(len(memory), END)

    def hidden(self, tokens, memory, *, state):
        return jnp.asarray(TABLE)[memory[:, None], state[:, None], tokens], tokens[:, 0]

    def head(self, x):
        return x


@partial(jax.jit, static_argnums=3)
def programs(sources, limits, length_penalty, beam_size):
    return beam_search(
        Trigrams(),
        sources,
        limits,
        WRITABLE,
        length_penalty,
        beam_size=beam_size,
        max_length=LONGEST,
        separator_id=END,
    )


def search(sources, beam_size: int, length_penalty: float) -> list[tuple[list[int], float]]:
    """The answer to each source, and its score."""
    found = programs(sources, LIMITS[sources], length_penalty, beam_size)
    rows = zip(*map(np.asarray, found), strict=True)
    return [(tokens[:length].tolist(), float(score)) for tokens, length, score in rows]


def gains(source: int, tokens: list[int]) -> np.ndarray:
    """Log-probabilities of the next token, -inf of what may not be written."""
    before = [END, END, *tokens][-2:]
    logits = TABLE[source, before[0], before[1]].astype(np.float64)
    allowed = np.arange(V) == END if len(tokens) + 1 == LIMITS[source] else WRITABLE
    return np.where(allowed, logits - np.log(np.sum(np.exp(logits))), -np.inf)


def reference(source: int, beam_size: int, length_penalty: float) -> tuple[list[int], float]:
    """Beams as lists of tokens; what ends among the best goes to the finished ones."""
    beams, finished = [([], 0.0)], []
    while len(finished) < beam_size:
        candidates = [
            ([*tokens, token], total + gain)
            for tokens, total in beams
            for token, gain in enumerate(gains(source, tokens))
            if gain > -np.inf
        ]
        candidates.sort(key=lambda candidate: -candidate[1])
        for tokens, total in candidates[:beam_size]:
            if tokens[-1] == END:
                finished.append((tokens, total / ((5 + len(tokens)) / 6) ** length_penalty))
        beams = [one for one in candidates if one[0][-1] != END][:beam_size]
        if not beams:
            break
    return max(finished, key=lambda one: one[1])


def greedy(source: int) -> list[int]:
    tokens: list[int] = []
    while not tokens or tokens[-1] != END:
        tokens.append(int(np.argmax(gains(source, tokens))))
    return tokens


@pytest.mark.parametrize(("beam_size", "length_penalty"), [(1, 0.6), (2, 0.0), (5, 0.6), (5, 1.5)])
def test_it_finds_what_a_plain_search_finds(beam_size, length_penalty):
    for source, (tokens, score) in enumerate(search(np.arange(SOURCES), beam_size, length_penalty)):
        expected, its_score = reference(source, beam_size, length_penalty)
        assert tokens == expected, source
        assert math.isclose(score, its_score, rel_tol=1e-5)


def test_one_beam_takes_the_likeliest_token_at_each_step():
    found = search(np.arange(SOURCES), 1, 2.0)
    assert [tokens for tokens, _ in found] == [greedy(source) for source in range(SOURCES)]
    assert len({len(tokens) for tokens, _ in found}) > 2


def test_more_beams_find_likelier_answers_and_the_penalty_longer_ones():
    one, more, longer = (search(np.arange(SOURCES), *by) for by in ((1, 0.0), (5, 0.0), (5, 3.0)))
    totals = [sum(score for _, score in found) for found in (one, more)]
    lengths = [sum(len(tokens) for tokens, _ in found) for found in (more, longer)]
    assert totals[0] < totals[1] and lengths[0] < lengths[1]


def test_what_may_not_be_written_is_not_and_limits_hold():
    for source, (tokens, _) in enumerate(search(np.arange(SOURCES), 2, 0.6)):
        assert 5 not in tokens and tokens[-1] == END and tokens.count(END) == 1
        assert len(tokens) <= LIMITS[source]


def test_a_batch_gives_what_each_alone_gives():
    together = search(np.arange(SOURCES), 5, 0.6)
    for source in range(SOURCES):
        ((tokens, score),) = search(np.array([source]), 5, 0.6)
        assert tokens == together[source][0]
        assert math.isclose(score, together[source][1], rel_tol=1e-6)
