"""`/v1/embeddings` answers with the means of hidden states, in OpenAI's form."""

import asyncio
import random

import numpy as np
import pytest

from benchmarks.engine_runs import Compilations
from inference.compiled import CompiledFunction
from inference.embeddings import CHUNK, SHORTEST
from inference.loading import load_model
from tests.serving.in_process import serving_model
from tests.serving.servers import GOLDEN

ROUTE = "/v1/embeddings"
MOST = 4 * CHUNK


@pytest.fixture(scope="module")
def recurrent():
    """A server whose model has no limit of its own."""
    with serving_model(
        load_model(GOLDEN / "recurrence_text"), max_input_tokens=MOST, writes_texts=False
    ) as server:
        yield server


@pytest.fixture(scope="module")
def attentive():
    """A server whose model reads 16 tokens."""
    with serving_model(load_model(GOLDEN / "attention_text"), writes_texts=False) as server:
        yield server


HIDDEN = CompiledFunction(lambda module, tokens_BT: module.hidden(tokens_BT)[0])


def expected(server, ids):
    """Return the mean of the hidden states of one text, computed without padding."""
    x_BTD = HIDDEN(server.service.model.module, np.array([ids], np.int32))
    mean_D = np.asarray(x_BTD, np.float64)[0].mean(axis=0)
    return mean_D / np.linalg.norm(mean_D)


def vectors(answer):
    assert [entry["index"] for entry in answer["data"]] == [*range(len(answer["data"]))]
    assert {entry["object"] for entry in answer["data"]} == {"embedding"}
    return np.array([entry["embedding"] for entry in answer["data"]])


@pytest.mark.parametrize("kind", ["recurrent", "attentive"])
def test_an_embedding_is_the_mean_of_the_hidden_states(kind, request):
    server = request.getfixturevalue(kind)
    texts = ["To be", "a", "or not to be, t"]
    answer = server.ask(ROUTE, input=texts)
    ids = [server.service.model.tokenizer.encode(text).tolist() for text in texts]
    for vector, of_text in zip(vectors(answer), ids, strict=True):
        np.testing.assert_allclose(vector, expected(server, of_text), atol=2e-5)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    count = sum(map(len, ids))
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    by_tokens = server.ask(ROUTE, input=ids)
    np.testing.assert_allclose(vectors(by_tokens), vectors(answer), atol=1e-5)
    (alone,) = vectors(server.ask(ROUTE, input=ids[1]))
    np.testing.assert_allclose(alone, vectors(answer)[1], atol=2e-5)


def test_a_long_text_is_read_in_parts(recurrent):
    generator = random.Random(0)
    known = recurrent.service.model.tokenizer.vocabulary_size
    for length in (SHORTEST + 1, CHUNK + 1, MOST - 3):
        ids = [generator.randrange(known) for _ in range(length)]
        (vector,) = vectors(recurrent.ask(ROUTE, input=ids))
        np.testing.assert_allclose(vector, expected(recurrent, ids), atol=2e-5)


def test_the_official_client_reads_both_forms(attentive):
    openai = pytest.importorskip("openai")

    async def embed(**fields):
        async with attentive.client() as http:
            client = openai.AsyncOpenAI(
                api_key="none", base_url=f"{attentive.url}/v1", http_client=http
            )
            return await client.embeddings.create(model="model", input=["To be", "or"], **fields)

    default, as_numbers = (
        asyncio.run(embed(**fields)) for fields in ({}, {"encoding_format": "float"})
    )
    for coded, numbers in zip(default.data, as_numbers.data, strict=True):
        np.testing.assert_allclose(coded.embedding, numbers.embedding, atol=1e-7)
        assert len(coded.embedding) == 16
    assert default.usage == as_numbers.usage


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({}, "input", "is missing"),
        ({"input": []}, "input", "empty list"),
        ({"input": ""}, "input", "must not be empty"),
        ({"input": ["a", ""]}, "input.1", "must not be empty"),
        ({"input": ["a", [1]]}, "input", "a list of texts"),
        ({"input": [1, True]}, "input", "a list of texts"),
        ({"input": [[1], []]}, "input.1", "must not be empty"),
        ({"input": [10**6]}, "input", "ids of tokens from 0 to"),
        ({"input": ["a", "b" * 17]}, "input.1", "17 tokens, more than 16"),
        ({"input": ["a"] * 129}, "input", "at most 128"),
        ({"input": "a" * (1 << 19)}, "input", "characters"),
        ({"input": "a", "dimensions": 8}, "dimensions", "is 16 for this model"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({"input": "a", "inputs": "a"}, "inputs", "did you mean input?"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(attentive, fields, param, said):
    error = attentive.refused(ROUTE, **fields)
    assert error["param"] == param and said in error["message"], error


def test_too_many_tokens_have_openai_s_code(recurrent, attentive):
    for server, most in ((recurrent, MOST), (attentive, 16)):
        error = server.refused(ROUTE, input=[1] * (most + 1))
        assert error["code"] == "context_length_exceeded"
        server.ask(ROUTE, input=[1] * most, dimensions=16, user="somebody")


@pytest.mark.parametrize("kind", ["recurrent", "attentive"])
def test_nothing_is_compiled_after_the_start(kind, request):
    server = request.getfixturevalue(kind)
    server.warm_up()
    compilations, generator = Compilations(), random.Random(1)
    for count in (1, 2, 5):
        lengths = [generator.randrange(1, 17) for _ in range(count)]
        if server.service.model.module.has_bounded_context is False:
            lengths = [generator.randrange(1, MOST + 1) for _ in range(count)]
        contents = [{"input": [[2] * length, [3]]} for length in lengths]
        assert {status for status, _ in server.requests(ROUTE, contents)} == {200}
    assert compilations.count == 0


def test_states_that_are_not_finite_are_an_error_of_the_server(attentive, monkeypatch):
    monkeypatch.setattr("inference.embeddings._unit", lambda sum_D: np.full_like(sum_D, np.nan))
    for form in ("float", "base64"):
        ((status, answer),) = attentive.requests(ROUTE, [{"input": "a", "encoding_format": form}])
        assert (status, answer["error"]["code"]) == (500, "internal_error")
