"""`/v1/completions` answers as the engine does, in OpenAI's form."""

import json

import pytest

PROMPT = "0 times 0 "


def ask(server, **fields):
    return server.ask("/v1/completions", {"model": server.model, "prompt": PROMPT} | fields)


def test_the_same_seed_gives_the_same_text_and_n_texts_differ(text_server):
    first, second = (ask(text_server, seed=7, n=3, max_tokens=12) for _ in range(2))
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in second["choices"]] and len({*texts}) == 3
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert first["usage"]["completion_tokens"] == sum(map(len, texts))


def test_a_stream_has_the_pieces_of_the_text(text_server):
    whole = ask(text_server, seed=1, max_tokens=20)
    fields = {"seed": 1, "max_tokens": 20, "stream": True}
    fields |= {"model": text_server.model, "prompt": PROMPT}
    fields["stream_options"] = {"include_usage": True}
    status, body = text_server.request("/v1/completions", fields)
    *events, last = [line for line in body.decode().split("\n\n") if line]
    assert (status, last) == (200, "data: [DONE]")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert len({chunk["id"] for chunk in chunks}) == 1
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1])
    assert text == whole["choices"][0]["text"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"] == whole["usage"] and chunks[-1]["choices"] == []


def test_prompts_are_scored_without_writing(text_server):
    (choice,) = ask(text_server, echo=True, max_tokens=0, logprobs=2)["choices"]
    scores = choice["logprobs"]
    assert choice["text"] == PROMPT and "".join(scores["tokens"]) == PROMPT
    assert scores["text_offset"] == list(range(len(PROMPT)))
    first, *rest = scores["token_logprobs"]
    assert first is None and all(score < 0 for score in rest)


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"temprature": 1}, "temprature", "did you mean temperature?"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 1000}, "n", "at most 16 here"),
        ({"model": "gpt"}, "model", "this server has 'recurrence_text'"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"prompt": [10**6]}, "prompt", "ids of tokens from 0"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "ids of tokens"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(text_server, fields, param, said):
    content = {"model": text_server.model, "prompt": PROMPT} | fields
    status, body = text_server.request("/v1/completions", content)
    error = json.loads(body)["error"]
    assert status in (400, 404) and error["param"] == param and said in error["message"]


def test_prompts_are_not_in_the_log(text_server):
    secret = "7 times 7 is a secret "
    fields = {"model": text_server.model, "max_tokens": 2}
    text_server.ask("/v1/completions", fields | {"prompt": secret})
    text_server.request("/v1/completions", fields | {"prompt": secret, "wrong": secret})
    text = text_server.log.read_text()
    assert '"status": 200' in text and "secret" not in text
