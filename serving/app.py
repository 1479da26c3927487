"""The application: routes, behind the guard; and its description."""

from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema
from starlette import routing
from starlette.routing import Router
from starlette.types import ASGIApp

from serving.access import AccessRules
from serving.forms.answers import ErrorAnswer
from serving.guard import Guard
from serving.responses import json_response
from serving.route import Route
from serving.routes import (
    chat,
    classify_files,
    classify_text,
    completions,
    embeddings,
    fill,
    operation,
    page,
    speech,
    translate,
)
from serving.service import Service

KINDS = (
    completions,
    chat,
    embeddings,
    fill,
    translate,
    classify_text,
    classify_files,
    speech,
)
"""The modules of routes that some models have: `routes(service)` is empty for the others."""

STATUSES = {
    400: "A wrong parameter, which the error names.",
    401: "A token is needed.",
    404: "Another model.",
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body has another type.",
    421: "This host name is not served.",
    429: "Too many requests wait: try again after Retry-After seconds.",
    500: "A fault of the server.",
    503: "The server can't answer now: try again after Retry-After seconds.",
}


def routes_of(service: Service) -> list[Route]:
    """Return the routes of a server: those for its model, and those that each has."""
    routes = [*operation.routes(service), *page.routes(service)]
    for kind in KINDS:
        routes += kind.routes(service)
    return routes


def build_app(service: Service, *, tokens: Sequence[str], hosts: Sequence[str]) -> ASGIApp:
    """Build the application. tokens: what clients must show; empty if the server is open. hosts:
    the names it may be called by."""
    routes = routes_of(service)

    async def describe(request: Any) -> Any:
        return json_response(description)

    routes.append(Route("GET", "/openapi.json", describe, "This description."))
    app = Router(
        [routing.Route(one.path, one.endpoint, methods=[one.method]) for one in routes],
        redirect_slashes=False,
    )
    description = description_of(service.name, [one for one in routes if one.is_described])
    table: dict[str, dict[str, Any]] = {}
    for route in routes:
        table.setdefault(route.path, {})[route.method] = route.access
    rules = AccessRules(table, tokens=tokens, hosts=hosts)
    return Guard(app, service=service, rules=rules)


def description_of(name: str, routes: Sequence[Route]) -> dict[str, Any]:
    """Return the description of routes, in OpenAPI 3.1."""
    forms = {route.form for route in routes if route.form is not None}
    answers = {route.answer for route in routes if route.answer is not None} | {ErrorAnswer}
    wanted = [(form, "validation") for form in forms] + [(one, "serialization") for one in answers]
    references, definitions = models_json_schema(
        sorted(wanted, key=lambda pair: pair[0].__name__),  # type: ignore[arg-type]
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for route in routes:
        operation: dict[str, Any] = {
            "summary": route.summary,
            "operationId": route.method.lower() + route.path.replace("/", "_"),
            "responses": _responses(route, references),
        }
        if route.form is not None:
            schema = references[route.form, "validation"]
            body = {"required": True, "content": {"application/json": {"schema": schema}}}
            operation["requestBody"] = body
        elif route.upload is not None:
            content = {"multipart/form-data": {"schema": route.upload}}
            operation["requestBody"] = {"required": True, "content": content}
        if route.access == "token":
            operation["security"] = [{"token": []}, {}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1"},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _responses(route: Route, references: Any) -> dict[str, Any]:
    content: dict[str, Any] = {media: {} for media in route.media_types}
    if route.answer is not None:
        content["application/json"] = {"schema": references[route.answer, "serialization"]}
    if route.streams:
        content["text/event-stream"] = {}
    if not content:
        content["application/json"] = {}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    error = {"application/json": {"schema": references[ErrorAnswer, "serialization"]}}
    for status, meaning in STATUSES.items():
        responses[str(status)] = {"description": meaning, "content": error}
    if route.answer is not None and route.access == "public":
        responses["503"] = {"description": "Not now.", "content": content}
    return responses
