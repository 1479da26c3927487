"""Wraps every request: checks access, turns exceptions into error responses, and writes the log and
the metrics."""

import asyncio
import logging
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access import AccessRules
from serving.answers import Arrival
from serving.errors import ApiError, internal_error, stopping
from serving.log import log, log_fault
from serving.responses import ClientLeft, error_response
from serving.service import Service

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)

CLOSE = (b"connection", b"close")
"""Header of answers while the server stops: it makes the client open a new connection for its next
request, which can reach another server."""

ALWAYS = frozenset(("/health", "/ready", "/metrics"))
"""Paths that are answered even while the server stops. Their requests are logged at level DEBUG."""

LEFT = 499
"""Status, in the log and the metrics, of a request whose client disconnected; nginx uses the same
one."""


class Guard:
    """ASGI middleware around the whole application.

    rules: decide whether a request may be answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        rules: AccessRules,
    ):
        self._app, self._service, self._rules = app, service, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        now, status, is_complete = asyncio.get_running_loop().time(), 0, False
        arrival = Arrival(header=now, body=now)
        request_id = "req_" + secrets.token_hex(12)
        scope.setdefault("state", {}).update(request_id=request_id, token_name="", arrival=arrival)

        async def receive_body() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                arrival.body = asyncio.get_running_loop().time()
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status, is_complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *SECURITY_HEADERS]
                if self._service.is_draining:
                    headers = [one for one in headers if one[0] != CLOSE[0]] + [CLOSE]
                message["headers"] = [*headers, (b"x-request-id", request_id.encode())]
            elif message["type"] == "http.response.body":
                is_complete = not message.get("more_body", False)
            await send(message)

        async def answer(error: ApiError) -> None:
            if not status:
                await error_response(error, request_id)(scope, receive, send_with_headers)

        self._service.in_flight += 1
        try:
            scope["state"]["token_name"] = self._rules.check(scope)
            if self._service.is_draining and scope["path"] not in ALWAYS:
                raise stopping()
            await self._app(scope, receive_body, send_with_headers)
        except ApiError as error:
            await answer(error)
        except ClientLeft:
            pass
        except Exception as error:
            log_fault(request_id, error)
            await answer(internal_error())
        finally:
            self._service.in_flight -= 1
            seconds = asyncio.get_running_loop().time() - arrival.header
            self._finish(scope, request_id, status if is_complete else LEFT, seconds)

    def _finish(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = scope["path"] if scope["path"] in self._rules.paths else "other"
        metrics = self._service.metrics
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        log(
            "request",
            logging.DEBUG if scope["path"] in ALWAYS else logging.INFO,
            request_id=request_id,
            client=scope["client"][0] if scope.get("client") else None,
            method=scope["method"][:20],
            path=scope["path"][:200],
            status=status,
            seconds=round(seconds, 4),
        )
