"""Random requests to every route: what our own description says of the answers is true, and so is
what OpenAI's says of its routes.

OpenAI's is not part of this project: TRIFORM_OPENAI_DESCRIPTION is the path of the file.
"""

import copy
import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.serving.described import LIMITS, Served, find_faults
from tests.serving.kinds import KINDS, file_of, serving_kind

EXAMPLES = 500
"""Random requests to each operation."""

PHASES = ("examples", "coverage", "fuzzing")
SECONDS = 3000

OPENAI_ROUTES = {
    "text": ("/completions", "/embeddings", "/models", "/models/{model}"),
    "chat": ("/chat/completions",),
    "speech": ("/audio/transcriptions",),
}
"""OpenAI's routes, by the kind of model that has them."""


DESCRIPTION = "TRIFORM_OPENAI_DESCRIPTION"


@pytest.fixture(scope="module")
def served(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    with serving_kind(request.param, folder, fields=LIMITS) as server:
        yield request.param, server


def check(description: dict[str, Any], server: Served, folder: Path, **options: Any) -> None:
    """Fail for a fault, and for an operation whose every request was refused."""
    limits = {"examples": EXAMPLES, "phases": PHASES, "seconds": SECONDS}
    succeeded = find_faults(description, server, folder, **limits, **options)
    assert min(succeeded.values()) > 0, succeeded


@pytest.mark.parametrize("served", KINDS, indirect=True)
@pytest.mark.timeout(SECONDS + 120)
def test_our_description(served, tmp_path):
    kind, server = served
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        description = json.load(answer)
    check(description, server, tmp_path, file=file_of(kind))


@pytest.mark.skipif(
    DESCRIPTION not in os.environ,
    reason=f"OpenAI's description is not ours to ship: set {DESCRIPTION} to your copy",
)
@pytest.mark.parametrize("served", OPENAI_ROUTES, indirect=True)
@pytest.mark.timeout(SECONDS + 120)
def test_the_description_of_openai(served, tmp_path):
    kind, server = served
    description = json.loads(Path(os.environ[DESCRIPTION]).read_text())
    description = amended(description, OPENAI_ROUTES[kind])
    check(description, server, tmp_path, file=file_of(kind), prefix="/v1")


def amended(description: dict[str, Any], routes: tuple[str, ...]) -> dict[str, Any]:
    """Return OpenAI's description of some routes, with what it leaves out.

    It says `nullable`, which its version of OpenAPI does not know. It has no streams of
    completions, whose last part alone has a reason; no null for the first token of an echoed
    prompt, which nothing comes before; and no transcripts that are not JSON. Refusals are not
    compared with it: it lists none but 429, which it lacks the schema of.
    """
    description["paths"] = {route: description["paths"][route] for route in routes}
    description = _with_null(description)
    for path in description["paths"].values():
        for operation in path.values():
            operation.pop("security", None)
            operation["responses"] = {"200": operation["responses"]["200"]}
    choice = description["components"]["schemas"]["CreateCompletionResponse"]["properties"][
        "choices"
    ]["items"]["properties"]
    scores = choice["logprobs"]["anyOf"][0]["properties"]
    for name in ("token_logprobs", "top_logprobs"):
        scores[name]["items"] = {"anyOf": [scores[name]["items"], {"type": "null"}]}
    for name in routes:
        content = description["paths"][name].get("post", {}).get("responses", {}).get("200", {})
        if name == "/completions":
            content["content"]["text/event-stream"] = {"schema": _chunk(description)}
        elif name == "/audio/transcriptions":
            plain = {"schema": {"type": "string"}}
            content["content"] |= {"text/plain": plain, "text/vtt": plain}
    return description


def _chunk(description: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a part of a completion."""
    chunk = copy.deepcopy(description["components"]["schemas"]["CreateCompletionResponse"])
    choice = chunk["properties"]["choices"]["items"]["properties"]
    choice["finish_reason"] = {"anyOf": [choice["finish_reason"], {"type": "null"}]}
    chunk["properties"]["usage"] = {"anyOf": [chunk["properties"]["usage"], {"type": "null"}]}
    return chunk


def _with_null(schema: Any) -> Any:
    """Return a schema with `nullable` in the words of OpenAPI 3.1."""
    if isinstance(schema, list):
        return [_with_null(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _with_null(one) for name, one in schema.items()}
    return {"anyOf": [found, {"type": "null"}]} if found.pop("nullable", False) is True else found
