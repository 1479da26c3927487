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

    summary: one sentence for the description. form: the JSON body, None if there is none. answer:
    the body of an answer. streams: whether the answer can be a stream of events. upload: the
    parts of a multipart body, as a JSON schema. media_types: of answers that are not JSON.
    is_described: whether it stands in the description.
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
