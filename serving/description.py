"""Builds the OpenAPI 3.1 description of the server from its routes."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic.json_schema import models_json_schema

from serving.forms.answers import ErrorAnswer
from serving.forms.parameters import complete
from serving.route import Route

Json = dict[str, Any]

STATUSES = {
    400: "A wrong parameter, which the error names.",
    401: "A token is needed.",
    403: "A page of another origin has sent the request.",
    404: "There is no such model.",
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body has the wrong type.",
    421: "This host name is not served.",
    429: "Too many requests wait: try again after Retry-After seconds.",
    500: "A fault of the server.",
    503: "The server can't answer now: try again after Retry-After seconds.",
}

BODY_STATUSES = frozenset((404, 408, 413, 415, 429))
"""Statuses that only routes with a body can return; routes with a parameter in the path can return
404 too."""

TAGS = {
    "completions": "Texts that continue a prompt.",
    "chat": "Answers in a conversation.",
    "embeddings": "Vectors for texts.",
    "audio": "Transcripts of audio.",
    "classify": "Labels of texts, images and audio.",
    "translate": "Texts in another language.",
    "fill": "Words for the gaps of a text.",
    "models": "The model that is served.",
    "info": "The model that is served, with its metrics.",
    "operation": "Health, metrics and this description.",
}

STREAM = (
    "The answer. With `stream`, server-sent events: the `data` of each is JSON, and after the last "
    "one comes `[DONE]`. If the server fails in the middle, an event has an `error`, and no "
    "`[DONE]` follows."
)


def description_of(name: str, routes: Sequence[Route], *, needs_token: bool) -> Json:
    """Return the OpenAPI description of a server.

    name: the name of its model. needs_token: whether clients must send a token.
    """
    references, schemas = _schemas(routes)
    error = references[ErrorAnswer, "serialization"]
    paths: Json = {}
    for route in routes:
        operation = _operation(route, references, needs_token=needs_token)
        paths.setdefault(route.template, {})[route.method.lower()] = operation
    tags = sorted({operation["tags"][0] for path in paths.values() for operation in path.values()})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Triform",
            "summary": f"The model {name}.",
            "description": "Routes that OpenAI's clients know have OpenAI's form.",
            "version": "1",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag, "description": TAGS.get(tag, "")} for tag in tags],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {_name(status): _error_response(status, error) for status in STATUSES},
            "headers": {
                "RequestId": {
                    "description": "The id of the request, as in the server's log.",
                    "schema": {"type": "string"},
                },
                "RetryAfter": {
                    "description": "Seconds after which to try again.",
                    "schema": {"type": "integer", "minimum": 1},
                },
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The server's token."}
            },
        },
    }


def _schemas(routes: Sequence[Route]) -> tuple[Mapping[Any, Json], Json]:
    """Return the references to the schemas of all bodies, by pydantic model and mode, and the
    schemas by name."""
    forms = {route.form for route in routes if route.form is not None}
    answers = {
        ErrorAnswer,
        *(one for route in routes for one in (route.answer, route.event) if one),
    }
    wanted = [(form, "validation") for form in forms] + [(one, "serialization") for one in answers]
    references, definitions = models_json_schema(
        sorted(wanted, key=lambda pair: pair[0].__name__),  # type: ignore[arg-type]
        ref_template="#/components/schemas/{model}",
    )
    schemas = definitions.get("$defs", {})
    for schema in schemas.values():
        for one in schema.get("properties", {}).values():
            one.pop("title", None)
    for form in forms:
        complete(schemas[references[form, "validation"]["$ref"].rpartition("/")[2]], form)
    return references, schemas


def _operation(route: Route, references: Mapping[Any, Json], *, needs_token: bool) -> Json:
    operation: Json = {
        "operationId": route.endpoint.__name__,
        "tags": [_tag(route.path)],
        "summary": route.summary,
    }
    if route.parameters:
        operation["parameters"] = [
            {"in": "path", "required": True, "name": name, **parameter}
            for name, parameter in route.parameters.items()
        ]
    if route.form is not None:
        body: Json = {"schema": references[route.form, "validation"]}
        if route.example is not None:
            body["example"] = route.example
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    elif route.upload is not None:
        content = {"multipart/form-data": {"schema": route.upload}}
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = _responses(route, references)
    if route.access == "public":
        operation["security"] = []
    else:
        operation["security"] = [{"token": []}] if needs_token else [{"token": []}, {}]
    return operation


def _responses(route: Route, references: Mapping[Any, Json]) -> Json:
    content: Json = {media: {"schema": {"type": "string"}} for media in route.media_types}
    if route.answer is not None:
        content["application/json"] = {"schema": references[route.answer, "serialization"]}
    if route.streams:
        event = references[route.event or route.answer, "serialization"]
        error = references[ErrorAnswer, "serialization"]
        content["text/event-stream"] = {"schema": {"anyOf": [event, error]}}
    if not content:
        content["application/json"] = {"schema": {"type": "object"}}
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    responses: Json = {
        "200": {
            "description": STREAM if route.streams else "The answer.",
            "headers": headers,
            "content": content,
        }
    }
    has_body = route.form is not None or route.upload is not None
    for status in STATUSES:
        if status in BODY_STATUSES and not (has_body or (status == 404 and route.parameters)):
            continue
        if status == 401 and route.access == "public":
            continue
        responses[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
    for status, meaning in route.statuses.items():
        described = {"description": meaning, "headers": headers, "content": content}
        responses[str(status)] = described
    return responses


def _error_response(status: int, error: Json) -> Json:
    headers: Json = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    content = {"application/json": {"schema": error}}
    return {"description": STATUSES[status], "headers": headers, "content": content}


def _name(status: int) -> str:
    """Return the name of a status as a component of the description, such as TooManyRequests."""
    return HTTPStatus(status).name.title().replace("_", "")


def _tag(path: str) -> str:
    """Return the group of a route: the first part of its path after the version."""
    _, version, *rest = path.split("/")
    return rest[0] if version == "v1" else "operation"
