"""Builds the ASGI application: the routes, and the guard around them."""

from collections.abc import Sequence
from typing import Any

from starlette import routing
from starlette.routing import Router
from starlette.types import ASGIApp

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
"""Modules whose routes only some models have: `routes(service)` is empty for the others."""


def routes_of(service: Service) -> list[Route]:
    """Return all routes of a server but `/openapi.json`: those of every server, and those of its
    model."""
    routes = [*operation.routes(service), *page.routes(service)]
    for kind in KINDS:
        routes += kind.routes(service)
    return routes


def build_app(
    service: Service,
    *,
    tokens: Sequence[str],
    hosts: Sequence[str],
    takes_addresses: bool = False,
) -> ASGIApp:
    """Build the application. tokens, hosts, takes_addresses: as in `AccessRules`."""
    routes = routes_of(service)

    async def describe(request: Any) -> Any:
        return json_response(description)

    routes.append(Route("GET", "/openapi.json", describe, "This description."))
    app = Router(
        [routing.Route(one.path, one.endpoint, methods=one.methods) for one in routes],
        redirect_slashes=False,
    )
    described = [one for one in routes if one.is_described]
    description = description_of(service.name, described, needs_token=bool(tokens))
    table: dict[str, dict[str, Any]] = {}
    for route in routes:
        for method in route.methods:
            table.setdefault(route.path, {})[method] = route.access
    rules = AccessRules(table, tokens=tokens, hosts=hosts, takes_addresses=takes_addresses)
    return Guard(app, service=service, rules=rules)
