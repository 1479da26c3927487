"""Reads the bodies of requests, within limits of size and time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from serving.errors import ApiError
from serving.responses import ClientLeft


async def read_json_body(request: Request, *, most_bytes: int, seconds: float) -> bytes:
    """Return the body of a request whose Content-Type must be JSON; it is not parsed. Raises
    `ApiError` 415 for another type, and what `read_body` raises."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            "the body must be JSON: send Content-Type: application/json",
            code="unsupported_media_type",
        )
    return await read_body(request, most_bytes=most_bytes, seconds=seconds)


async def read_body(request: Request, *, most_bytes: int, seconds: float) -> bytes:
    """Return the body of a request. Raises `ApiError` 413 if it has more than `most_bytes`, 408 if
    it takes longer than `seconds`, and 415 if it is compressed; `ClientLeft` if the client
    disconnects."""
    check_encoding(request)
    check_length(request, most_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise too_large(most_bytes)
    except TimeoutError:
        raise timed_out(seconds) from None
    except ClientDisconnect:
        raise ClientLeft from None
    return bytes(body)


def check_encoding(request: Request) -> None:
    """Raise `ApiError` 415 for a compressed body: its decompressed size is unknown."""
    for encoding in request.headers.getlist("content-encoding"):
        if encoding.strip().lower() not in ("", "identity"):
            raise ApiError(
                415,
                "compressed bodies are not taken: send it without Content-Encoding",
                code="unsupported_media_type",
                headers={"Accept-Encoding": "identity"},
            )


def check_length(request: Request, most_bytes: int) -> None:
    """Raise `ApiError` 413 if Content-Length is more than `most_bytes`."""
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > most_bytes:
        raise too_large(most_bytes)


def timed_out(seconds: float) -> ApiError:
    """Return the error 408 for a body that did not arrive in time."""
    return ApiError(
        408,
        f"the body did not come within {seconds:g} seconds",
        code="timeout",
        headers={"Connection": "close"},
    )


def too_large(most_bytes: int) -> ApiError:
    """Return the error 413 for a body that is too large."""
    return ApiError(
        413,
        f"the body is larger than {most_bytes} bytes, the limit here",
        code="body_too_large",
        headers={"Connection": "close"},
    )
