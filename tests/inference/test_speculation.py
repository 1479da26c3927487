"""Speculation writes the same texts in fewer steps."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from inference.engine.constraints import Constraint
from inference.engine.lookup import DRAFT, draft, lookup_of
from inference.requests import Completion, Request, Sampling
from tests.inference.test_engine import (
    MIXERS,
    SOME_MIXERS,
    TOKENIZER,
    arriving,
    build,
    compilations,
    engine_of,
    mixed_requests,
)

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module", params=SOME_MIXERS)
def model(request):
    return build(MIXERS[request.param])


@pytest.fixture(scope="module")
def attention():
    return build({})


def looking_up(request: Request) -> Request:
    return replace(request, speculation=True)


def check_equal(completions: list[Completion], expected: list[Completion]) -> None:
    """Everything is equal but the numbers of guessed tokens, and log-probabilities within 1e-4."""
    for one, other in zip(completions, expected, strict=True):
        for name in ("prompt_tokens", "tokens", "text", "finish"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("logprobs", "prompt_logprobs"):
            scores, others = getattr(one, name), getattr(other, name)
            assert [score.token for score in scores] == [score.token for score in others]
            np.testing.assert_allclose(
                [score.logprob for score in scores], [score.logprob for score in others], atol=1e-4
            )


def completed(model, requests: list[Request], **options) -> list[Completion]:
    return arriving(engine_of(model, **options), requests)


def nearly(text: str) -> str:
    """A text with another letter at every sixth place."""
    return "".join("a" if place % 6 == 5 else letter for place, letter in enumerate(text))


def test_requests_that_share_slots_get_the_same_texts_with_and_without_speculation(model):
    check_speculation(model)


def check_speculation(model) -> None:
    """Requests that share slots get the same texts with and without speculation."""
    plain = mixed_requests(24)
    expected = completed(model, plain, sizes=(2,))
    predicted = [
        replace(request, prediction=nearly(completion.text) if number % 2 else completion.text)
        for number, (request, completion) in enumerate(zip(plain, expected, strict=True))
    ]
    mixed = [*predicted[:16], *map(looking_up, plain[16:]), *plain[:4]]
    completions = completed(model, mixed, sizes=(2,))
    check_equal(completions, [*expected, *expected[:4]])
    assert sum(completion.accepted_tokens for completion in completions) > 50
    assert sum(completion.rejected_tokens for completion in completions) > 20
    assert not any(completion.accepted_tokens for completion in completions[-4:])


def alone(model, request: Request) -> Completion:
    return completed(model, [request], sizes=(1,))[0]


def steps(completion: Completion) -> int:
    """Number of steps that the text took: each writes one token besides the accepted ones."""
    return completion.tokens - completion.accepted_tokens


def test_a_text_that_repeats_itself_takes_an_eighth_of_the_steps(attention):
    always_c = Sampling(logit_bias=((TOKENIZER.vocabulary()["c"], 100.0),))
    request = Request("c", max_tokens=48, sampling=always_c, speculation=True)
    completion = alone(attention, request)
    assert completion.text == 48 * "c"
    assert steps(completion) <= 3 + 48 / (DRAFT + 1)


@pytest.mark.parametrize("temperature", [0, 0.7])
def test_a_right_prediction_is_accepted_from_the_first_token_on(attention, temperature):
    sampling = Sampling(temperature=temperature, seed=2)
    plain = Request("abcd", max_tokens=40, sampling=sampling)
    expected = alone(attention, plain)
    completion = alone(attention, replace(plain, prediction=expected.text))
    check_equal([completion], [expected])
    assert expected.tokens >= 16
    assert steps(completion) <= 2 + expected.tokens / (DRAFT + 1)


def test_a_text_in_which_guesses_are_wrong_stops_guessing():
    bias = tuple((TOKENIZER.vocabulary()[letter], 100.0) for letter in "abcd")
    noise = Sampling(temperature=10, logit_bias=bias)  # Every pair of letters was there before.
    model = build({"pattern": "R", "recurrence": "gru"})
    completion = alone(model, Request("", max_tokens=400, sampling=noise, speculation=True))
    assert completion.tokens == 400
    assert 0 < completion.accepted_tokens + completion.rejected_tokens < 200


def guessed(
    prompt: list[int],
    prediction: Sequence[int] = (),
    written: Sequence[int] = (),
    *,
    room: int = 64,
) -> list[int]:
    guess = draft(lookup_of(prompt, written, prediction, room=room, left=8))
    return guess.tokens_BD[0, : guess.length_B[0]].tolist()


def test_the_guess_follows_the_latest_of_the_longest_matches():
    assert guessed([1, 2, 3, 8, 8, 1, 2, 4, 9, 7, 1, 2]) == [4, 9, 7, 1, 2, 4, 9]
    assert guessed([5, 1, 2, 3, 8, 8, 1, 2, 4, 9, 5, 1, 2]) == [3, 8, 8, 1, 2, 4, 9]
    assert guessed([4, 6, 7, 6, 7]) == [6, 7, 6, 7, 6, 7, 6]
    assert guessed([1, 2, 3, 4, 2]) == guessed([1]) == []


def test_a_prediction_is_guessed_from_and_not_read_past_its_end():
    assert guessed([1, 2], [7, 8, 9]) == [7, 8, 9]
    assert guessed([5, 1, 2], [7, 8, 9, 3], [7, 8]) == [9, 3]
    assert guessed(list(range(1, 30)), list(range(40, 80)), room=48) == [40, 41]
    assert guessed([1, 2], [7, 8]) == [7, 8]


def test_a_masked_text_keeps_to_its_mask_and_others_are_still_guessed(attention):
    plain = [Request(prompt, max_tokens=24, sampling=GREEDY) for prompt in ("aabb", "cde", "fgh")]
    expected = completed(attention, plain[1:], sizes=(4,))
    predicted = [
        replace(request, prediction=completion.text)
        for request, completion in zip(plain[1:], expected, strict=True)
    ]
    engine = engine_of(attention, sizes=(4,))
    constrained = replace(looking_up(plain[0]), constraint=Constraint("regex", "[ab]{40}"))
    first, *others = [engine.submit(request) for request in (constrained, *predicted)]
    engine.run()
    check_equal([job.completion for job in others], expected)
    assert set(first.completion.text) <= set("ab") and first.completion.tokens == 24
    assert first.completion.accepted_tokens == 0
    assert all(job.completion.accepted_tokens >= 8 for job in others)


def test_nothing_is_compiled_after_the_warm_up(attention):
    engine = engine_of(attention, sizes=(1, 4))
    engine.warm_up()
    with compilations() as compiled:
        completions = arriving(engine, [*map(looking_up, mixed_requests(16))])
    assert compiled == []
    assert sum(completion.rejected_tokens for completion in completions) > 0
