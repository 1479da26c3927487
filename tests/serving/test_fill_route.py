"""`/v1/fill` answers as the predictor does."""

import random

import pytest

from benchmarks.engine_runs import Compilations
from configs.data_spec import DataSpec
from data.codecs.tokenizers import Tokenizer
from inference.predictors.filling import MOST_GAPS
from tests.serving.in_process import serving_model, untrained

ROUTE = "/v1/fill"
LENGTH = 24
TEXTS = ["a[MASK]c", "[MASK] b", "bad[MASK]cab[MASK][MASK]c", "x[MASK]"]


@pytest.fixture(scope="module")
def server():
    """A masked language model of single characters."""
    tokenizer = Tokenizer.characters(["abcd x"])
    spec = DataSpec(vocabulary_size=tokenizer.vocabulary_size, max_length=LENGTH)
    model = untrained(
        "masked_language_model",
        tokenizer,
        spec,
        model__width="16",
        model__depth="1",
        model__num_heads="2",
        data__sequence_length=str(LENGTH),
    )
    with serving_model(model, writes_texts=False) as server:
        yield server


def test_texts_are_filled_as_the_predictor_fills_them(server):
    answer = server.ask(ROUTE, input=TEXTS)
    expected = [*server.service.model.predict(prompt=TEXTS)]
    assert len({one.text for one in expected}) == len(TEXTS)
    for index, (found, one) in enumerate(zip(answer["data"], expected, strict=True)):
        assert (found["index"], found["text"]) == (index, one.text)
        for candidates, ours in zip(found["candidates"], one.candidates, strict=True):
            assert [candidate["token"] for candidate in candidates] == [
                candidate["token"] for candidate in ours
            ]
            assert [candidate["score"] for candidate in candidates] == pytest.approx(
                [candidate["score"] for candidate in ours], rel=1e-4
            )
    count = sum(len(text.replace("[MASK]", "_")) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": count, "total_tokens": count}
    (alone,) = server.ask(ROUTE, input=TEXTS[2])["data"]
    assert alone["text"] == answer["data"][2]["text"]


@pytest.mark.parametrize(
    ("text", "param", "said"),
    [
        ("no gap", "input", "has no [MASK]"),
        (["a[MASK]", "no gap"], "input.1", "has no [MASK]"),
        (["[MASK]" + "a" * LENGTH], "input", f"this model reads {LENGTH}"),
        ("[MASK]" + "a" * 10**5, "input", f"this model reads {LENGTH}"),
        ("[MASK]" * 10**4, "input", f"this model reads {LENGTH}"),
        ([], "input", "empty list"),
        (1, "input", "a text or a list of texts"),
        ("", "input", "has no [MASK]"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(server, text, param, said):
    error = server.refused(ROUTE, input=text)
    assert error["param"] == param and said in error["message"] and len(error["message"]) < 700
    assert (error["code"] == "context_length_exceeded") == ("this model reads" in said)


def test_nothing_is_compiled_after_the_start(server):
    server.warm_up()
    compilations, generator = Compilations(), random.Random(0)
    for count in (1, 2, 7):
        texts = ["[MASK]" * generator.randrange(1, LENGTH) + "a" for _ in range(count)]
        assert MOST_GAPS > LENGTH
        contents = [{"input": text} for text in texts]
        assert {status for status, _ in server.requests(ROUTE, contents)} == {200}
        server.ask("/v1/embeddings", input=["a" * generator.randrange(1, LENGTH)] * count)
    assert compilations.count == 0
