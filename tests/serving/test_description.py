"""The description of the routes has what clients and their generators need, and it is true."""

import json

import jsonschema
import pytest

from tests.serving.described import find_faults
from tests.serving.in_process import tone

EXAMPLES = 15
"""Random requests to each operation."""

SERVERS = ("text_server", "chat_server", "speech_server")


@pytest.fixture(scope="module", params=SERVERS)
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def description(server):
    status, body = server.request("/openapi.json")
    assert status == 200
    return json.loads(body)


def operations(description):
    return [one for path in description["paths"].values() for one in path.values()]


def test_it_is_complete(description):
    assert description["openapi"] == "3.1.0"
    names = [operation["operationId"] for operation in operations(description)]
    assert len({*names}) == len(names) and all(map(str.isidentifier, names))
    tags = {tag["name"] for tag in description["tags"] if tag["description"]}
    for operation in operations(description):
        assert {*operation["tags"]} <= tags and operation["summary"]
        assert {"200", "500", "503"} <= operation["responses"].keys()
    schemas = description["components"]["schemas"]
    for name, schema in schemas.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        if name.endswith("Form"):
            for parameter, one in schema["properties"].items():
                assert one.get("description"), f"{name}.{parameter} has no meaning"


def test_references_lead_somewhere(description):
    found = []

    def walk(value):
        for one in value.values() if isinstance(value, dict) else value:
            if isinstance(one, dict | list):
                walk(one)
        if isinstance(value, dict) and isinstance(value.get("$ref"), str):
            found.append(value["$ref"])

    walk(description)
    assert found
    for reference in found:
        part = description
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]


def test_the_examples_do(server, description):
    answered = 0
    for path, methods in description["paths"].items():
        body = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" in body:
            example = body["application/json"]["example"]
            status, answer = server.request(path, example)
            assert status == 200, (path, answer)
            answered += 1
    assert answered or "/v1/audio/transcriptions" in description["paths"]


def test_answers_are_as_described(server, description, tmp_path):
    succeeded = find_faults(
        description,
        server,
        tmp_path,
        examples=EXAMPLES,
        phases=["examples", "fuzzing"],
        file=tone(0.3),
    )
    assert min(succeeded.values()) > 0, succeeded
