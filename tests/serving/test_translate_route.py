"""`/v1/translate` answers as the predictor does."""

import random

import pytest

from benchmarks.engine_runs import Compilations
from inference.loading import load_model
from tests.serving.in_process import serving_model
from tests.serving.servers import GOLDEN

ROUTE = "/v1/translate"
TEXTS = ["3 March 2004", "1 May 1999", "", "Sunday, 4 June 1922", "12"]


@pytest.fixture(scope="module")
def server():
    """A model that turns dates into another form."""
    with serving_model(load_model(GOLDEN / "attention_pairs"), writes_texts=False) as server:
        yield server


def test_texts_are_answered_as_the_predictor_answers_them(server):
    expected = [one for _, one in server.service.model.predict(prompt=TEXTS)]
    answer = server.ask(ROUTE, input=TEXTS, beam_size=1)
    assert [entry["index"] for entry in answer["data"]] == [*range(len(TEXTS))]
    assert [entry["text"] for entry in answer["data"]] == [one.text for one in expected]
    assert [entry["score"] for entry in answer["data"]] == pytest.approx(
        [one.score for one in expected], rel=1e-4
    )
    assert answer["warnings"] == [] and answer["usage"]["prompt_tokens"] > len(TEXTS)
    together = server.requests(ROUTE, [{"input": text} for text in TEXTS])
    assert [one["data"][0]["text"] for _, one in together] == [one.text for one in expected]


def test_a_text_that_is_cut_is_told(server):
    answer = server.ask(ROUTE, input=["1", "2" * 200])
    assert answer["warnings"] == ["input.1 has 200 tokens, of which this model reads the first 127"]
    (cut,) = server.ask(ROUTE, input="2" * 127)["data"]
    assert cut["text"] == answer["data"][1]["text"]


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"beam_size": 2}, "beam_size", "is 1 here"),
        ({"beam_size": 0}, "beam_size", "greater than or equal to 1"),
        ({"length_penalty": 1.0}, "length_penalty", "is 0.6 here"),
        ({"input": ["a", 1]}, "input", "a text or a list of texts"),
        ({"input": []}, "input", "empty list"),
        ({"temperature": 1}, "temperature", "unknown parameter"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(server, fields, param, said):
    error = server.refused(ROUTE, **{"input": "1"} | fields)
    assert error["param"] == param and said in error["message"]


def test_nothing_is_compiled_after_the_start(server):
    server.warm_up()
    compilations, generator = Compilations(), random.Random(0)
    for count in (1, 3, 6):
        contents = [{"input": "1" * generator.randrange(1, 150)} for _ in range(count)]
        assert {status for status, _ in server.requests(ROUTE, contents)} == {200}
    assert compilations.count == 0
