"""Responses: JSON, errors, and streams of events, each of which ends when the client leaves."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pydantic
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import ApiError, internal_error
from serving.log import log_fault

Result = TypeVar("Result")


class ClientLeft(Exception):
    """Raised when the client has closed the connection: nobody waits for the answer."""


def json_bytes(content: Any) -> bytes:
    """Return JSON in UTF-8; bytes are JSON already. Raises ValueError for NaN and infinities."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, pydantic.BaseModel):
        content = content.model_dump()
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        errors="replace"
    )


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with a JSON body."""
    return Response(json_bytes(content), status, headers, media_type="application/json")


def fast_json_response(body: pydantic.BaseModel, *, exclude_unset: bool = False) -> Response:
    """Return a response with a body of many numbers, all finite, for a thread beside the event
    loop's.

    The json module would not let the event loop run for as long as it writes them. Nor does
    pydantic, which is faster, except while it asks an iterator in the body for the next element.
    """
    content = body.model_dump_json(exclude_unset=exclude_unset)
    return Response(content, media_type="application/json")


def error_response(error: ApiError, request_id: str) -> Response:
    """Return the response that tells an error."""
    return json_response(error.body(request_id), error.status, error.headers)


async def unless_client_leaves(receive: Receive, answer: Awaitable[Result]) -> Result:
    """Await an answer. Cancels it and raises `ClientLeft` when the client closes the connection.

    The body of the request must have been read.
    """
    left = asyncio.ensure_future(_leaving(receive))
    task = asyncio.ensure_future(answer)
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        for one in (task, left):
            one.cancel()
        await asyncio.gather(task, left, return_exceptions=True)
        # An error's traceback holds this frame: without its task, and so the error, it is no cycle,
        # and the content of the request is free at once.
        del task, left


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events: each content as JSON, then `[DONE]`.

    An error before the first content is raised, so that it becomes a status; a later one is an
    event, and no `[DONE]` follows. on_close: called at the end, also if the client leaves before
    the first event.
    """

    media_type = "text/event-stream"

    def __init__(
        self, contents: AsyncIterator[Any], request_id: str, *, on_close: Callable[[], None]
    ):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._contents, self._request_id, self._on_close = contents, request_id, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_client_leaves(receive, self._write(send))
        finally:
            self._on_close()

    async def _write(self, send: Send) -> None:
        first = await anext(self._contents, None)
        headers = self.raw_headers
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        try:
            await _send_event(send, json_bytes(first))
            async for content in self._contents:
                await _send_event(send, json_bytes(content))
            await _send_event(send, b"[DONE]")
        except ApiError as error:
            await _send_event(send, json_bytes(error.body(self._request_id)))
        except Exception as error:
            log_fault(self._request_id, error)
            await _send_event(send, json_bytes(internal_error().body(self._request_id)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, content: bytes) -> None:
    body = b"data: " + content + b"\n\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})
