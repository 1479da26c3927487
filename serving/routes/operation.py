"""The routes for operating the server: health, readiness, metrics, and the name of its model."""

from starlette.requests import Request
from starlette.responses import Response

from serving.forms.answers import ModelCard, ModelList, State
from serving.metrics import CONTENT_TYPE
from serving.responses import json_response
from serving.route import Route
from serving.service import Service


def routes(service: Service) -> list[Route]:
    """Return the routes that every server has."""
    card = ModelCard(id=service.name, created=service.created)

    async def health(request: Request) -> Response:
        if service.has_failed:
            return json_response(State(status="failed"), 503)
        return json_response(State(status="ok"))

    async def ready(request: Request) -> Response:
        status = service.status
        return json_response(State(status=status), 200 if status == "ready" else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    async def models(request: Request) -> Response:
        return json_response(ModelList(data=[card]))

    async def model(request: Request) -> Response:
        return json_response(card)

    return [
        Route(
            "GET",
            "/health",
            health,
            "Whether the server is alive.",
            "public",
            answer=State,
            statuses={503: "The model has failed."},
        ),
        Route(
            "GET",
            "/ready",
            ready,
            "Whether the server can answer requests now.",
            "public",
            answer=State,
            statuses={503: "It can't answer now."},
        ),
        Route("GET", "/metrics", metrics, "Metrics for Prometheus.", media_types=("text/plain",)),
        Route("GET", "/v1/models", models, "The model that is served.", answer=ModelList),
        Route(
            "GET",
            f"/v1/models/{service.name}",
            model,
            "The served model, by its name.",
            answer=ModelCard,
            described_path="/v1/models/{model}",
            parameters={"model": {"schema": {"type": "string"}, "example": service.name}},
        ),
    ]
