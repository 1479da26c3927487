"""The interface of the predictors: the fields that a request may have, and the errors of others."""

import pytest

from inference.engine.constraints import CONSTRAINT_FIELDS
from inference.predictors.classification import TextClassification
from inference.predictors.completion import TextCompletion
from inference.predictors.filling import GapFilling
from inference.predictors.predictor import SEARCH_FIELDS, WRITING_FIELDS
from inference.predictors.registry import CLASSIFIERS, PREDICTORS
from inference.requests import RequestError

CLASSES = (*PREDICTORS.values(), *CLASSIFIERS.values())
FIELDS = WRITING_FIELDS | SEARCH_FIELDS | {"prompt", "input", "stream", *CONSTRAINT_FIELDS}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_field_that_a_predictor_does_not_take_is_refused_by_its_name(kind):
    assert kind.fields < FIELDS and kind.required.keys() <= kind.fields
    request = {field: ["a"] for field in kind.required}
    kind.check_fields(request, "the task")
    for field in FIELDS - kind.fields:
        with pytest.raises(RequestError) as error:
            kind.check_fields(request | {field: 1}, "the task")
        assert error.value.field == field
        assert str(error.value).startswith(f"{field} is for ")
    for field in kind.fields:
        kind.check_fields(request | {field: 1}, "the task")


@pytest.mark.parametrize("kind", [TextCompletion, GapFilling, TextClassification])
def test_a_model_of_prompts_says_what_to_give_for_a_file(kind):
    with pytest.raises(RequestError) as error:
        kind.check_fields({"input": ["a.txt"]}, "the task")
    assert '--prompt="$(cat FILE)"' in str(error.value)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_request_without_an_input_names_each_way_to_give_one(kind):
    with pytest.raises(RequestError) as error:
        kind.check_fields({}, "the task", lambda field: f"--{field}=VALUE")
    assert error.value.field in kind.required
    assert str(error.value).startswith(f"{error.value.field} is missing: ")
    for field, meaning in kind.required.items():
        assert f"--{field}=VALUE ({meaning})" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -3.0),
        ("logit_bias", {"7": 101}),
        ("seed", 2**32),
        ("stop", ("end", "")),
        ("stop_tokens", (3, "a")),
        ("n", 0),
        ("logprobs", 3),
        ("prompt_logprobs", "yes"),
        ("context_shift", 1),
        ("speculation", "on"),
        ("prediction", 3),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(RequestError) as error:
        TextCompletion.parse({"prompt": ["a"], field: value})
    assert error.value.field == field
    assert str(error.value).startswith(f"{field} must ")


def test_every_setting_of_a_text_has_a_value_that_is_refused():
    (mark,) = test_a_value_out_of_its_range_is_refused_by_the_name_of_its_field.pytestmark
    assert {field for field, _ in mark.args[1]} == WRITING_FIELDS


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_text_in_place_of_a_list_is_refused(kind):
    for field in kind.required:
        with pytest.raises(RequestError, match=rf"^{field} must be a list of texts, not the text "):
            kind.check_fields({field: "a.txt"}, "the task")
