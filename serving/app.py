"""The application: routes, behind the guard."""

from collections.abc import Sequence
from typing import Any

from starlette import routing
from starlette.routing import Router
from starlette.types import ASGIApp

from inference.predictors.classification import PictureClassification, RecordingClassification
from inference.predictors.transcription import Transcription
from serving.access import AccessRules
from serving.description import description_of
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
    speech,
    translate,
)
from serving.service import Service


def routes_of(service: Service) -> list[Route]:
    """Return the routes of a server: those for its model, and those that each has."""
    routes = operation.routes(service)
    if service.texts is not None:
        routes += completions.routes(service, service.texts)
        routes += chat.routes(service, service.texts)
    for kind in (embeddings, fill, translate, classify_text):
        routes += kind.routes(service)
    predictor = service.predictor
    if isinstance(predictor, Transcription):
        routes += speech.routes(service, predictor)
    elif isinstance(predictor, PictureClassification | RecordingClassification):
        routes += classify_files.routes(service, predictor)
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
    description = description_of(service.name, routes, needs_token=bool(tokens))
    table: dict[str, dict[str, Any]] = {}
    for route in routes:
        table.setdefault(route.path, {})[route.method] = route.access
    rules = AccessRules(table, tokens=tokens, hosts=hosts)
    return Guard(app, service=service, rules=rules)
