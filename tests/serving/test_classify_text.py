"""`/v1/classify` labels texts as the predictor does."""

import asyncio
import random
import threading
import time

import pytest

from benchmarks.engine_runs import Compilations
from configs.data_spec import DataSpec
from data.codecs.tokenizers import Tokenizer
from tests.serving.in_process import SECONDS, serving_model, untrained

ROUTE = "/v1/classify"
LENGTH = 16
TEXTS = ["a cab", "bad", "a bad cab, a cab, a cab", "d", "cccc"]


@pytest.fixture(scope="module")
def server():
    """A classifier of texts of single characters, with three classes."""
    tokenizer = Tokenizer.characters(["abcd ,"])
    spec = DataSpec(
        vocabulary_size=tokenizer.vocabulary_size,
        max_length=LENGTH,
        num_classes=3,
        classes=("cat", "dog", "horse"),
    )
    model = untrained(
        "text_classification",
        tokenizer,
        spec,
        model__width="16",
        model__depth="1",
        model__num_heads="2",
        data__sequence_length=str(LENGTH),
        data__path=__file__,
    )
    with serving_model(model, slots=3, writes_texts=False) as server:
        yield server


def test_texts_are_labelled_as_the_predictor_labels_them(server):
    told = []
    expected = [*server.service.model.predict(prompt=TEXTS, warn=told.append)]
    assert len({one.label for one in expected}) > 1 and len(told) == 1
    answer = server.ask(ROUTE, input=TEXTS)
    for index, (found, one) in enumerate(zip(answer["data"], expected, strict=True)):
        assert (found["index"], found["label"]) == (index, one.label)
        scores = {score["label"]: score["score"] for score in found["scores"]}
        assert scores == pytest.approx(one.scores, rel=1e-4)
        assert [*scores.values()] == sorted(scores.values(), reverse=True)
        assert next(iter(scores)) == one.label
    assert answer["warnings"] == [
        f"input.2 has 23 tokens, of which this model reads the first {LENGTH}"
    ]
    assert answer["usage"]["prompt_tokens"] == sum(min(len(text), LENGTH) for text in TEXTS)


def test_the_likeliest_labels_alone(server):
    (found,) = server.ask(ROUTE, input="bad", top_k=2)["data"]
    (whole,) = server.ask(ROUTE, input="bad")["data"]
    assert found["scores"] == whole["scores"][:2] and found["label"] == whole["label"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"input": ["a", ""]}, "input.1", "has no token"),
        ({"input": ""}, "input", "has no token"),
        ({"top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"input": {"text": "a"}}, "input", "a text or a list of texts"),
        ({"text": "a"}, "text", "unknown parameter"),
        ({"input": ["a"] * 129}, "input", "at most 128 texts"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(server, fields, param, said):
    error = server.refused(ROUTE, **{"input": "a"} | fields)
    assert error["param"] == param and said in error["message"]


def test_a_fault_of_a_batch_is_the_server_s_and_passes(server, monkeypatch):
    classify, calls = server.service.predictor._classifier, []

    def fail_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise FloatingPointError("a secret")
        return classify(*arguments)  # The model is checked after it.

    with monkeypatch.context() as patched:
        patched.setattr(server.service.predictor, "_classifier", fail_once)
        ((status, answer),) = server.requests(ROUTE, [{"input": "a"}])
    assert (status, answer["error"]["code"]) == (500, "internal_error")
    assert "secret" not in str(answer) and len(calls) > 1
    server.ask(ROUTE, input="a")


def test_the_inputs_of_a_client_that_leaves_are_given_up(server, monkeypatch):
    begun, may_end = threading.Event(), threading.Event()
    classify = server.service.predictor._classifier

    def wait_and_classify(*arguments):
        begun.set()
        assert may_end.wait(SECONDS)
        return classify(*arguments)

    async def leave():
        async with server.client() as client:
            sent = asyncio.ensure_future(client.post(ROUTE, json=content))
            assert await asyncio.to_thread(begun.wait, SECONDS)
            sent.cancel()

    content = {"model": server.model, "input": ["a"] * 20}
    with monkeypatch.context() as patched:
        patched.setattr(server.service.predictor, "_classifier", wait_and_classify)
        asyncio.run(leave())
        deadline = time.monotonic() + SECONDS
        while server.service.in_flight or server.service.worker.waiting:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        may_end.set()
        assert len(server.ask(ROUTE, input=TEXTS)["data"]) == len(TEXTS)
    assert server.service.worker.running == 0


def test_the_description_has_the_forms_of_inputs(server):
    async def describe():
        async with server.client() as client:
            return (await client.get("/openapi.json")).json()

    described = asyncio.run(describe())
    assert {"/v1/classify", "/v1/embeddings"} <= described["paths"].keys()
    assert not {"/v1/fill", "/v1/translate"} & described["paths"].keys()
    schemas = described["components"]["schemas"]
    kinds = [one["type"] for one in schemas["ClassifyTextsForm"]["properties"]["input"]["anyOf"]]
    assert kinds == ["string", "array"]
    assert len(schemas["EmbeddingForm"]["properties"]["input"]["anyOf"]) == 4


def test_nothing_is_compiled_after_the_start(server):
    server.warm_up()
    compilations, generator = Compilations(), random.Random(0)
    for count in (1, 2, 3, 7):
        texts = ["a" * generator.randrange(1, 20) for _ in range(count)]
        contents = [{"input": text} for text in texts]
        assert {status for status, _ in server.requests(ROUTE, contents)} == {200}
        server.ask("/v1/embeddings", input=["a" * generator.randrange(1, LENGTH)] * count)
    assert compilations.count == 0
