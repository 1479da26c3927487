"""Every parameter that OpenAI documents is one here, or is ignored, or is refused with a reason;
and the tables of docs/serving.md say which."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema.serve import Serve
from serving.errors import ApiError
from serving.forms.chat import ChatForm
from serving.forms.classify import ClassifyTextsForm
from serving.forms.classify_files import ClassifyFileForm
from serving.forms.completions import CompletionForm
from serving.forms.embeddings import EmbeddingForm
from serving.forms.fill import FillForm
from serving.forms.form import Form
from serving.forms.speech import TranscriptionForm
from serving.forms.translate import TranslateForm
from tests.docs.documents import read

DESCRIPTION = "TRIFORM_OPENAI_DESCRIPTION"
"""The environment variable that names a file with OpenAI's description of its routes, if any."""

FORMS: dict[str, type[Form]] = {
    "/v1/completions": CompletionForm,
    "/v1/chat/completions": ChatForm,
    "/v1/embeddings": EmbeddingForm,
    "/v1/audio/transcriptions": TranscriptionForm,
}
"""The body of each route that OpenAI documents too."""

OUR_FORMS = (ClassifyTextsForm, ClassifyFileForm, FillForm, TranslateForm)

OPENAI = {
    "/v1/completions": """
        best_of echo frequency_penalty logit_bias logprobs max_tokens model n presence_penalty
        prompt seed stop stream stream_options suffix temperature top_p user
    """,
    "/v1/chat/completions": """
        audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
        max_tokens messages metadata modalities model moderation n parallel_tool_calls prediction
        presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention
        reasoning_effort response_format safety_identifier seed service_tier stop store stream
        stream_options temperature tool_choice tools top_logprobs top_p user verbosity
        web_search_options
    """,
    "/v1/embeddings": "dimensions encoding_format input model user",
    "/v1/audio/transcriptions": """
        chunking_strategy file include keywords known_speaker_names known_speaker_references
        language languages model prompt response_format stream temperature timestamp_granularities
    """,
}
"""The parameters that OpenAI documents for each route."""

WORDS = {"yes", "ignored", "refused", "ours"}


def documented(route: str) -> set[str]:
    return set(OPENAI[route].split())


def table(route: str) -> dict[str, tuple[str, str]]:
    """Return the table of a route in docs/serving.md: parameter to word and explanation."""
    title = re.escape(f"### `{route}`")
    section = re.search(rf"^{title}$(.*?)(?=^#|\Z)", read("docs/serving.md"), re.M | re.S)
    assert section is not None, route
    rows = [line for line in section[1].splitlines() if line.startswith("|")][2:]
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        names, word, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"`([a-z_]+)`", names):
            assert name not in found, f"{route} has two rows for {name}"
            found[name] = (word, meaning)
    return found


def fields(form: type[Form]) -> set[str]:
    """Return the names of a form's fields, as requests have them; of an upload, the file's too."""
    names = {info.alias or name for name, info in form.model_fields.items()}
    return names | ({"file"} if hasattr(form, "upload_schema") else set())


def fate(form: type[Form], name: str) -> str:
    """Return what a form does with a parameter."""
    fates = {
        "yes": name in fields(form),
        "ignored": name in form.ignored,
        "refused": name in form.refused,
    }
    (one,) = [word for word, holds in fates.items() if holds] or ["unknown"]
    return one


@pytest.mark.parametrize("route", FORMS)
def test_every_documented_parameter_is_known(route):
    form = FORMS[route]
    unknown = [name for name in sorted(documented(route)) if fate(form, name) == "unknown"]
    assert not unknown


@pytest.mark.parametrize("route", OPENAI)
def test_the_table_has_every_documented_parameter(route):
    rows = table(route)
    assert {word for word, _ in rows.values()} <= WORDS
    assert {name for name, (word, _) in rows.items() if word != "ours"} == documented(route)
    assert all(meaning for word, meaning in rows.values() if word == "refused")


@pytest.mark.parametrize("route", FORMS)
def test_the_table_says_what_the_form_does(route):
    form, rows = FORMS[route], table(route)
    for name in documented(route):
        assert rows[name][0] == fate(form, name), name
    ours = {name for name, (word, _) in rows.items() if word == "ours"}
    assert ours == fields(form) - documented(route)


@pytest.mark.parametrize("form", [*FORMS.values(), *OUR_FORMS])
def test_every_form_ignores_what_the_page_says(form):
    (names,) = re.findall(r"(`.*)\s+are ignored on every route", read("docs/serving.md"), re.S)
    ignored = re.findall(r"`([a-z]+)`", names.rpartition(". ")[2])
    assert ignored == ["user", "store", "metadata"]
    assert {fate(form, name) for name in ignored} == {"ignored"}


def test_the_page_names_limits_that_there_are_with_their_defaults():
    page = read("docs/serving.md")
    assert set(re.findall(r"\bserve\.([a-z_]+\w)", page)) - {"py"} <= set(Serve.model_fields)
    defaults = re.findall(r"`serve\.([a-z_]+)`: ([\d,]*\d)", page)
    assert len(defaults) > 10
    for name, value in defaults:
        assert getattr(Serve(), name) == int(value.replace(",", "")), name


def test_the_page_names_every_parameter_of_our_own_routes():
    _, _, section = read("docs/serving.md").partition("## Our own routes")
    for form in OUR_FORMS:
        assert fields(form) <= set(re.findall(r"`([a-z_]+)`", section)), form.__name__


def refusals() -> Iterator[tuple[type[Form], str, str]]:
    for form in FORMS.values():
        for name, reason in form.refused.items():
            yield form, name, reason


@pytest.mark.parametrize(("form", "name", "reason"), refusals())
def test_a_refusal_names_the_parameter_and_the_reason(form, name, reason):
    with pytest.raises(ApiError, match=re.escape(reason)) as caught:
        form.of({"model": "m", name: {"some": "value"}})
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.skipif(
    DESCRIPTION not in os.environ,
    reason=f"OpenAI's description is not ours to ship: set {DESCRIPTION} to your copy",
)
@pytest.mark.parametrize("route", OPENAI)
def test_the_names_are_those_of_the_description(route):
    description = json.loads(Path(os.environ[DESCRIPTION]).read_text())
    operation = description["paths"][route.removeprefix("/v1")]["post"]
    (body,) = operation["requestBody"]["content"].values()
    assert properties(body["schema"], description) == documented(route)


def properties(schema: dict[str, Any], description: dict[str, Any]) -> set[str]:
    """Return the names of an object's properties, those of its parts too."""
    if "$ref" in schema:
        return properties(
            description["components"]["schemas"][schema["$ref"].rpartition("/")[2]], description
        )
    parts = (part for key in ("allOf", "anyOf", "oneOf") for part in schema.get(key, ()))
    return set(schema.get("properties", ())).union(*(properties(p, description) for p in parts))


@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_a_body_that_is_empty_is_called_so(body):
    with pytest.raises(ApiError, match=r"^the body is empty: ") as refused:
        ChatForm.read(body)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"stream_options": {str(number): 1 for number in range(201)}},
            "stream_options: should have at most 200 members, not 201",
        ),
        (
            {"messages": [{str(number): 1 for number in range(201)}]},
            "messages.0: should have at most 200 members, not 201",
        ),
        ({"messages": [{"role": "user"}] * 4097}, "messages: should have at most 4096 items"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}] * 129},
            "tools: should have at most 128 items",
        ),
    ],
)
def test_the_parts_of_a_body_have_limits_too(values, said):
    given = {"model": "m", "messages": [{"role": "user", "content": "a"}]} | values
    with pytest.raises(ApiError, match=f"^{said}") as refused:
        ChatForm.of(given)
    assert refused.value.status == 400
