"""The requests of lm_eval's `local-completions` get the model's own log-likelihoods.

It sends the ids of a context and its continuation, lets one more token be written, and counts on an
entry for it: the last one is left out.
"""

import jax
import numpy as np
import pytest

from inference.loading import load_model
from tests.serving.servers import GOLDEN

QUESTIONS = {"0 times 0 is ": ("0", "1", "nothing"), "to be or not to ": ("be", "see, or not")}


@pytest.fixture(scope="module")
def model():
    return load_model(GOLDEN / "recurrence_text")


def request(server, ids: list[list[int]]) -> dict:
    """The request for a batch, as lm_eval makes it."""
    return {
        "model": server.model,
        "prompt": ids,
        "temperature": 0,
        "max_tokens": 1,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }


def read(answer: dict, context_lengths: list[int]) -> list[tuple[float, bool]]:
    """The log-likelihood of each continuation, and whether it is the greedy one, as lm_eval reads
    them."""
    found = []
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    for choice, length in zip(choices, context_lengths, strict=True):
        scores = choice["logprobs"]["token_logprobs"][length:-1]
        best = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][length:-1]]
        found.append((sum(scores), scores == best))
    return found


def own(model, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The same from the model's logits."""
    ids = np.array([context + continuation], np.int32)
    hidden_BTD, _ = model.module.hidden(ids[:, :-1], segments_BT=None, dropout_key=None)
    logprobs_TV = np.asarray(jax.nn.log_softmax(model.module.head(hidden_BTD))[0])
    places = np.arange(len(context) - 1, ids.shape[1] - 1)
    scores = logprobs_TV[places, continuation]
    return float(scores.sum()), bool((logprobs_TV[places].argmax(axis=1) == continuation).all())


@pytest.mark.parametrize("is_ended", [False, True], ids=["goes on", "ends"])
def test_log_likelihoods_are_those_of_the_model(text_server, model, is_ended):
    tokenizer = model.tokenizer
    pairs = [
        (tokenizer.encode(context).tolist(), tokenizer.encode(continuation).tolist())
        for context, continuations in QUESTIONS.items()
        for continuation in continuations
    ]
    pairs.append(([tokenizer.separator_id], tokenizer.encode("to be").tolist()))
    content = request(text_server, [context + continuation for context, continuation in pairs])
    if is_ended:  # The token that is written ends the text.
        content["logit_bias"] = {str(tokenizer.end_id): 100}
    answer = text_server.ask("/v1/completions", content)
    reasons = {choice["finish_reason"] for choice in answer["choices"]}
    assert reasons == {"stop" if is_ended else "length"}
    served = read(answer, [len(context) for context, _ in pairs])
    expected = [own(model, *pair) for pair in pairs]
    assert [score for score, _ in served] == pytest.approx([score for score, _ in expected], 1e-4)
    assert [is_best for _, is_best in served] == [is_best for _, is_best in expected]


def test_a_greedy_continuation_is_recognised(text_server, model):
    context = model.tokenizer.encode("0 times 0 ").tolist()
    fields = {"model": text_server.model, "prompt": context, "max_tokens": 3, "temperature": 0}
    fields["logit_bias"] = {str(model.tokenizer.end_id): -100}
    text = text_server.ask("/v1/completions", fields)["choices"][0]["text"]
    continuation = model.tokenizer.encode(text).tolist()
    answer = text_server.ask("/v1/completions", request(text_server, [context + continuation]))
    ((score, is_best),) = read(answer, [len(context)])
    assert is_best and score == pytest.approx(own(model, context, continuation)[0], 1e-4)
