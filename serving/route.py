"""A route: from it the router, the table of access and the description are made."""

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

    endpoint: its name is the operation's in the description. summary: one sentence for the
    description. form: the JSON body, None if there is none. answer: the body of an answer. streams:
    whether the answer can be a stream of events; event: the JSON of one, if it is not that of an
    answer. upload: the parts of a multipart body, as a JSON schema. media_types: of answers that
    are not JSON. statuses: further statuses that come with such an answer, and their meaning.
    example: a body of a request. described_path: the path with the names of its `parameters`, if
    it has some; each has the members of an OpenAPI parameter. is_described: whether it stands in
    the description.
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
    def template(self) -> str:
        """Return the path as the description has it."""
        return self.described_path or self.path
