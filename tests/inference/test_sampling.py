"""The next token: which ones may be drawn, how often, and from whose random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.errors import UsageError
from inference.requests import Request, Sampling
from inference.sampling import RowSettings, kept, row_key, sample

LOGITS = np.random.default_rng(0).normal(size=11).astype(np.float32) * 2


def draw(samplings, logits_BV=None, seen_BV=None, count=0):
    """A token for each row, each from the seed and the settings of its sampling."""
    if logits_BV is None:
        logits_BV = np.tile(LOGITS, (len(samplings), 1))
    keys = np.stack([row_key(s.seed, 0, 0) for s in samplings])
    settings = RowSettings.of(samplings, logits_BV.shape[1])
    counts = np.full(len(samplings), count)
    return np.asarray(jax.jit(sample)(logits_BV, keys, counts, settings, seen_BV))


def kept_tokens(**changes):
    settings = RowSettings.of([Sampling(**changes)], len(LOGITS))
    logits = kept(jnp.asarray(LOGITS)[None], settings)
    return set(np.flatnonzero(np.isfinite(np.asarray(logits[0]))).tolist())


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def likeliest(count):
    return set(np.argsort(-LOGITS)[:count].tolist())


@pytest.mark.parametrize("count", [1, 4, 10, 11, 50])
def test_top_k_keeps_the_k_likeliest(count):
    assert kept_tokens(top_k=count) == likeliest(count)


@pytest.mark.parametrize("mass", [0.01, 0.3, 0.7, 0.95, 0.9999, 1.0])
def test_top_p_keeps_the_smallest_set_that_reaches_p(mass):
    cumulative = np.cumsum(np.sort(softmax(LOGITS))[::-1])
    assert kept_tokens(top_p=mass) == likeliest(1 + np.sum(cumulative < min(mass, 1 - 1e-6)))


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 1.0])
def test_min_p_keeps_what_is_likely_enough(share):
    probability = softmax(LOGITS)
    assert kept_tokens(min_p=share) == likeliest(np.sum(probability >= share * probability.max()))


def test_top_p_is_of_what_top_k_left():
    four = softmax(np.sort(LOGITS)[::-1][:4])
    inside = 1 + np.sum(np.cumsum(four) < 0.8)
    assert kept_tokens(top_k=4, top_p=0.8) == likeliest(inside)


def test_each_row_has_its_own_settings():
    samplings = [
        *[Sampling(top_k=2, seed=seed) for seed in range(30)],
        *[Sampling(top_k=5, top_p=0.5, seed=seed) for seed in range(30)],
        *[Sampling(min_p=0.9, seed=seed) for seed in range(30)],
        *[Sampling(seed=seed) for seed in range(300)],
        *[Sampling(temperature=0)] * 3,
    ]
    tokens = draw(samplings)
    assert set(tokens[:30]) == likeliest(2)
    assert set(tokens[30:60]) <= kept_tokens(top_k=5, top_p=0.5)
    assert set(tokens[60:90]) == likeliest(1)
    assert len(set(tokens[90:390])) > 5
    assert set(tokens[390:]) == likeliest(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_their_probability(temperature):
    rows = 4000
    samplings = [Sampling(temperature=temperature, seed=seed) for seed in range(rows)]
    shares = np.bincount(draw(samplings), minlength=11) / rows
    np.testing.assert_allclose(shares, softmax(LOGITS / temperature), atol=0.03)


def test_a_draw_depends_on_seed_and_position_alone():
    first = draw([Sampling(seed=7)] * 3, count=5)
    assert len(set(first)) == 1
    among_others = draw(
        [Sampling(seed=1), Sampling(seed=7, top_k=11), Sampling(top_p=0.1)], count=5
    )
    assert among_others[1] == first[0]
    elsewhere = [draw([Sampling(seed=7, temperature=3)], count=count)[0] for count in range(20)]
    assert len(set(elsewhere)) > 3


def test_the_repetition_penalty_divides_and_multiplies():
    logits = np.array([[2.0, 1.9, -1.0, -1.1]] * 2, np.float32)
    seen = np.array([[True, False, True, False]] * 2)
    greedy = {"temperature": 0}
    rows = [Sampling(repetition_penalty=1.2, **greedy), Sampling(**greedy)]
    assert draw(rows, logits, seen).tolist() == [1, 0]
    assert draw(rows, logits[:, 2:], seen[:, 2:]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature must be >= 0, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"top_k": -1}, "top_k must be"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "at most 1"),
        ({"min_p": 2}, "min_p must be"),
        ({"repetition_penalty": 0}, "repetition_penalty must be > 0"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**32}, "seed must be"),
    ],
)
def test_values_out_of_range_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        Sampling(**changes)


def test_requests_that_cannot_be_are_named():
    with pytest.raises(UsageError, match="max_tokens must be >= 1, not 0"):
        Request("a", max_tokens=0)
    with pytest.raises(UsageError, match="stop must not be empty"):
        Request("a", stop=("b", ""))
