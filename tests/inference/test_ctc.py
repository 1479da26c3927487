"""Both decoders against all alignments, one by one."""

import itertools
from collections import defaultdict

import jax
import numpy as np
import pytest

from inference.ctc import NOTHING, best_path, labels_of, log_probability, prefix_beam_search

B, U, V = 6, 5, 3
BLANK = V - 1
LENGTHS = [5, 4, 3, 2, 1, 0]
SEGMENTS = (np.arange(U) < np.array(LENGTHS)[:, None]).astype(np.int32)
LOG_PROBS = np.asarray(
    jax.nn.log_softmax(2 * np.random.default_rng(3).normal(size=(B, U, V)), axis=-1), np.float32
)


def collapsed(path) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != BLANK)


def path_log_probability(row: int, path) -> float:
    return sum(float(LOG_PROBS[row, at, label]) for at, label in enumerate(path))


def all_texts(row: int) -> dict[tuple[int, ...], float]:
    """The probability of every text, as the sum over its alignments."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(V), repeat=LENGTHS[row]):
        found[collapsed(path)] += np.exp(path_log_probability(row, path))
    return found


def test_the_best_path_is_the_likeliest_alignment():
    labels = jax.jit(best_path)(LOG_PROBS, SEGMENTS)
    for row, text in enumerate(labels_of(np.asarray(labels))):
        paths = itertools.product(range(V), repeat=LENGTHS[row])
        best = max(paths, key=lambda path: path_log_probability(row, path))
        assert tuple(text) == collapsed(best)


def test_a_search_with_room_for_every_text_finds_all_of_them_with_their_probabilities():
    size = max(len(all_texts(row)) for row in range(B)) + 3
    search = jax.jit(prefix_beam_search, static_argnames="beam_size")
    labels, scores = search(LOG_PROBS, SEGMENTS, beam_size=size)
    for row in range(B):
        expected = all_texts(row)
        there = np.isfinite(scores[row])
        found = [tuple(text) for text in labels_of(np.asarray(labels[row])[there])]
        assert len(found) == len(set(found)) and set(found) == set(expected)
        assert found[0] == max(expected, key=expected.__getitem__)
        assert (np.diff(np.asarray(scores[row])[there]) <= 0).all()
        for text, score in zip(found, scores[row], strict=False):
            assert np.exp(score) == pytest.approx(expected[text], rel=1e-4)


def test_the_likeliest_text_may_not_be_that_of_the_likeliest_alignment():
    """Graves 2012, figure 7.5: the blank is likeliest at both positions, a label in all."""
    log_probs = np.log(np.array([[[0.4, 0.6], [0.4, 0.6]]], np.float32))
    segments = np.ones((1, 2), np.int32)
    (greedy,) = labels_of(np.asarray(best_path(log_probs, segments)))
    labels, scores = prefix_beam_search(log_probs, segments, beam_size=2)
    assert len(greedy) == 0
    np.testing.assert_array_equal(labels[0, 0], [0, NOTHING])
    assert np.exp(scores[0, 0]) == pytest.approx(0.64, rel=1e-5)


@pytest.mark.parametrize("beam_size", [1, 2, 3])
def test_a_small_beam_never_says_more_than_a_text_has(beam_size):
    labels, scores = prefix_beam_search(LOG_PROBS, SEGMENTS, beam_size=beam_size)
    for row in range(B):
        expected = all_texts(row)
        for text, score in zip(labels_of(np.asarray(labels[row])), scores[row], strict=True):
            if np.isfinite(score):
                assert np.exp(score) <= expected[tuple(text)] * (1 + 1e-4)


def test_a_row_is_searched_as_it_is_alone():
    labels, scores = prefix_beam_search(LOG_PROBS, SEGMENTS, beam_size=3)
    for row, length in ((1, 4), (3, 2)):
        alone = LOG_PROBS[row : row + 1, :length], SEGMENTS[row : row + 1, :length]
        own, own_scores = prefix_beam_search(*alone, beam_size=3)
        np.testing.assert_array_equal(labels[row, :, :length], own[0])
        np.testing.assert_allclose(scores[row], own_scores[0], rtol=1e-5)


def test_the_log_probability_of_labels_is_that_of_all_their_alignments():
    of = jax.jit(log_probability)
    for row in range(B):
        for text, expected in all_texts(row).items():
            labels = np.full((1, U), NOTHING, np.int32)
            labels[0, U - len(text) :] = text  # with what is to be passed over before them
            found = of(LOG_PROBS[row : row + 1], SEGMENTS[row : row + 1], labels)
            assert np.exp(found[0]) == pytest.approx(expected, rel=1e-4), text
