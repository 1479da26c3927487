"""Responses: JSON, errors, and streams of events. Their computation ends when the client
disconnects."""

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
    """Raised when the client has closed the connection before its answer was complete."""


def json_bytes(content: Any) -> bytes:
    """Return a value as JSON in UTF-8; bytes are returned as they are. Raises ValueError for NaN
    and infinities."""
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
    """Return a response with a JSON body of many numbers, all finite. To be called in another
    thread than the event loop's. exclude_unset: whether to leave out fields that were not set.

    The json module would block the event loop until it has written them all, as it holds Python's
    global lock. pydantic is faster; it holds the lock too, except while it takes the next element
    from an iterator in the body.
    """
    content = body.model_dump_json(exclude_unset=exclude_unset)
    return Response(content, media_type="application/json")


def error_response(error: ApiError, request_id: str) -> Response:
    """Return the response for an error."""
    return json_response(error.body(request_id), error.status, error.headers)


async def unless_client_leaves(receive: Receive, answer: Awaitable[Result]) -> Result:
    """Await and return an answer. If the client closes the connection first, the answer is
    cancelled and `ClientLeft` is raised.

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
        # An error's traceback holds this frame, and the task holds the error. Without the task,
        # there is no reference cycle, and the content of the request is freed at once.
        del task, left


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A response of server-sent events: each element of `contents` as JSON, then `[DONE]`.

    An error before the first element is raised, so that the response gets its status. A later error
    is sent as an event, and no `[DONE]` follows. request_id: for that error. on_close: called at
    the end, even if the client disconnects before the first event.
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
