"""OpenAI's own client works with the server unchanged."""

import openai
import pytest

PROMPT = "0 times 0 "


def client_of(server, **options) -> openai.OpenAI:
    """Return a client of a server that needs no token: the client wants a key all the same."""
    options = {"api_key": "none", "max_retries": 0, "timeout": 120} | options
    return openai.OpenAI(base_url=f"{server.url}/v1", **options)


@pytest.fixture
def text(text_server):
    """Ask for completions."""
    client = client_of(text_server)

    def ask(prompt=PROMPT, **fields):
        return client.completions.create(model=text_server.model, prompt=prompt, **fields)

    return ask


def test_models(text_server):
    client = client_of(text_server)
    (model,) = client.models.list()
    assert model.id == text_server.model and model.object == "model"
    assert client.models.retrieve(model.id) == model


def test_a_completion(text):
    answer = text(max_tokens=8, seed=3, temperature=0.5, top_p=0.9, user="somebody")
    (choice,) = answer.choices
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert (choice.index, choice.logprobs) == (0, None) and choice.finish_reason in (
        "stop",
        "length",
    )
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(PROMPT), len(choice.text))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer._request_id.startswith("req_")
    assert text(max_tokens=8, seed=3, temperature=0.5, top_p=0.9).choices == answer.choices


def test_completions_of_several_prompts(text):
    answer = text(["1 ", "2 "], n=2, max_tokens=4, echo=True)
    assert [choice.text[:2] for choice in answer.choices] == ["1 ", "1 ", "2 ", "2 "]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_prompts_as_tokens(text):
    scored = text(echo=True, max_tokens=0, logprobs=0).choices[0].logprobs
    ids = {}
    for token in range(20):
        ids[text([token], echo=True, max_tokens=0).choices[0].text] = token
    tokens = [ids[piece] for piece in scored.tokens]
    by_tokens = text(tokens, echo=True, max_tokens=0, logprobs=0).choices[0]
    assert by_tokens.text == PROMPT
    assert by_tokens.logprobs.token_logprobs == pytest.approx(scored.token_logprobs, abs=1e-4)
    both = text([tokens, tokens[:4]], max_tokens=2, seed=1)
    assert both.choices[0].text == text(seed=1, max_tokens=2).choices[0].text


def test_logprobs_of_a_completion(text):
    choice = text(max_tokens=5, logprobs=3, temperature=0).choices[0]
    scores = choice.logprobs
    assert "".join(scores.tokens) == choice.text
    assert scores.text_offset == list(range(len(choice.text)))
    for token, score, best in zip(
        scores.tokens, scores.token_logprobs, scores.top_logprobs, strict=True
    ):
        assert best[token] == score == max(best.values()) and len(best) == 3


def test_a_completion_ends_before_a_stop(text):
    whole = text(max_tokens=40, seed=5).choices[0]
    stop = whole.text[10:12]
    ended = text(max_tokens=40, seed=5, stop=["not there", stop]).choices[0]
    assert ended.text == whole.text[: whole.text.index(stop)] and ended.finish_reason == "stop"


def test_a_streamed_completion(text):
    whole = text(max_tokens=30, seed=4, logprobs=1)
    with text(
        max_tokens=30, seed=4, logprobs=1, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = stream
    assert {chunk.id for chunk in [*chunks, last]} == {last.id}
    parts = [chunk.choices[0] for chunk in chunks]
    assert "".join(part.text for part in parts) == whole.choices[0].text
    assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].finish_reason == whole.choices[0].finish_reason
    assert (last.choices, last.usage) == ([], whole.usage)
    offsets = [offset for part in parts for offset in part.logprobs.text_offset]
    assert offsets == whole.choices[0].logprobs.text_offset


def test_our_parameters_go_in_the_extra_body(text):
    best = text(max_tokens=6, temperature=0).choices[0].text
    drawn = text(max_tokens=6, extra_body={"top_k": 1}, extra_headers={"X-Trace": "1"})
    assert drawn.choices[0].text == best
    with pytest.raises(openai.BadRequestError) as error:
        text(extra_body={"top_q": 1})
    assert error.value.param == "top_q" and error.value.code == "unknown_parameter"


def test_null_stands_for_what_is_not_given(text):
    names = ("best_of", "echo", "logit_bias", "logprobs", "n", "stop", "stream", "suffix", "top_p")
    answer = text(max_tokens=3, seed=1, extra_body=dict.fromkeys(names))
    assert answer.choices == text(max_tokens=3, seed=1).choices
    options = {"stream_options": {"include_usage": None}}
    assert [*text(max_tokens=3, seed=1, stream=True, extra_body=options)][-1].choices


def test_whole_numbers_may_look_like_others(text):
    odd = text(extra_body={"max_tokens": 4.0, "n": 1e0, "seed": 1.0, "top_p": 1, "temperature": 1})
    assert odd.choices == text(max_tokens=4, seed=1).choices
    with pytest.raises(openai.BadRequestError) as error:
        text(extra_body={"max_tokens": 4.5})
    assert error.value.param == "max_tokens"


def test_a_top_p_of_nothing_takes_the_likeliest_token(text):
    assert text(max_tokens=8, top_p=0).choices == text(max_tokens=8, temperature=0).choices


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1, -1, 2**32])
def test_any_seed_of_64_bits_does(text, seed):
    assert text(max_tokens=9, seed=seed).choices == text(max_tokens=9, seed=seed).choices
