"""Defines routes. The router, the access table and the OpenAPI description are built from them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic
from starlette.requests import Request
from starlette.responses import Response

from serving.access import Access
from serving.forms.form import Form

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A path, a method, and the function that answers.

    endpoint: the function; its name is the `operationId` in the description. summary: one sentence
    for the description. access: who may call the route. form: the model of the JSON body; None if
    there is none. answer: the model of the JSON answer. streams: whether the answer can be a stream
    of events. event: the model of an event, if it is not `answer`. upload: the JSON schema of a
    multipart body. media_types: types of answers that are not JSON. statuses: further statuses of
    an answer with the same body as with status 200, and their meaning. example: an example of a
    body. parameters: parameters in the path, by name, as in OpenAPI. described_path: the path with
    the names of `parameters` in braces. is_described: whether the description contains the route.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    access: Access = "token"
    form: type[Form] | None = None
    answer: type[pydantic.BaseModel] | None = None
    streams: bool = False
    upload: Mapping[str, Any] | None = None
    media_types: tuple[str, ...] = ()
    is_described: bool = True
    statuses: Mapping[int, str] = field(default_factory=dict)
    event: type[pydantic.BaseModel] | None = None
    example: Mapping[str, Any] | None = None
    described_path: str | None = None
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """Return the methods that the route takes. With GET also HEAD, whose answer has the same
        status and headers, and no body: uvicorn leaves it out."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)

    @property
    def template(self) -> str:
        """Return the path as the description shows it."""
        return self.described_path or self.path
