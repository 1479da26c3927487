"""The web page, the documentation of the routes at `/docs`, the training report, and `/v1/info`."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from serving.forms.info import ModelInfo, model_info
from serving.responses import json_response
from serving.route import Route
from serving.service import Service

FOLDER = Path(__file__).parents[1] / "page"

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

PAGES = {"index.html": "/", "docs.html": "/docs"}
"""Files with a path of their own. The path of any other file is `/page/` and its name."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The report is one file that contains its styles and scripts. `sandbox` gives it an origin of its
own, and `default-src` no network: it can't read what the page has stored, nor send anything."""

PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def routes(service: Service) -> list[Route]:
    """Return the routes of the page."""
    report = service.report

    async def info(request: Request) -> Response:
        return json_response(_info(service))

    meaning = "The model that is served, with its metrics."
    joined = [*_static_routes(), Route("GET", "/v1/info", info, meaning, answer=ModelInfo)]
    if report is not None:
        joined.append(_report_route(report))
    return joined


def _report_route(report: bytes) -> Route:
    async def report_page(request: Request) -> Response:
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return _file(request, report, MEDIA_TYPES[".html"], headers)

    media_types = ("text/html",)
    meaning = "The report of the training."
    return Route("GET", "/report", report_page, meaning, media_types=media_types)


def address_of(name: str) -> str:
    """Return the path at which a file of the page is served."""
    return PAGES.get(name, f"/page/{name}")


def _static_routes() -> Iterator[Route]:
    """Yield a route for each file of the page. The files are read once, and nothing else in the
    folder is served."""
    for path in sorted(FOLDER.iterdir()):
        media_type = MEDIA_TYPES.get(path.suffix)
        if media_type is not None:
            yield _static_route(path.name, path.read_bytes(), media_type)


def _static_route(name: str, content: bytes, media_type: str) -> Route:
    async def answer(request: Request) -> Response:
        return _file(request, content, media_type, PAGE_HEADERS)

    return Route(
        "GET",
        address_of(name),
        answer,
        "A file of the web page.",
        "public",
        media_types=(media_type,),
        is_described=False,
    )


def _file(
    request: Request, content: bytes, media_type: str, headers: Mapping[str, str]
) -> Response:
    """Return a file, or 304 if the browser has it already."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"} | dict(headers)
    known = request.headers.get("if-none-match", "")
    if tag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=media_type)


def _info(service: Service) -> ModelInfo:
    return model_info(
        service.model,
        name=service.name,
        status=service.status,
        context=_context(service),
        limits=service.limits,
        has_report=service.report is not None,
    )


def _context(service: Service) -> int | None:
    """Return the maximum number of tokens of a text that the model reads; None if it is
    unlimited."""
    if service.texts is not None:
        return service.texts.context
    spec = service.model.restored.model_def.data_spec
    return spec.max_source_length or spec.max_length
