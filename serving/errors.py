"""Errors of the HTTP interface, in OpenAI's format."""

from collections.abc import Mapping
from typing import Any

from configs.errors import UsageError
from inference.requests import RequestError

PARAMETER_NAMES = {"json_schema": "response_format", "grammar": "tools"}
"""OpenAI's parameter for each of our request fields whose name differs."""

TOO_LONG = ("the context of this model", "and this model reads ")
"""Phrases in the error messages for inputs with too many tokens."""

MESSAGE_CHARACTERS = 600
"""Maximum length of a message about an input; of a longer one, the middle is left out."""


LONGEST_MESSAGE = 1000
"""Maximum length of any message, in characters: some messages repeat what a client sent."""


class ApiError(Exception):
    """An error that is the answer to a request.

    status: the HTTP status. message: what is wrong, and what would be right. type, code: OpenAI's
    names for the kind of error. param: the parameter that is wrong, None if there is none. headers:
    further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        message, param = shortened(message, LONGEST_MESSAGE), param and shortened(param, 100)
        super().__init__(message)
        self.status, self.message, self.type = status, message, type
        self.param, self.code, self.headers = param, code, dict(headers or {})

    def body(self, request_id: str = "") -> dict[str, Any]:
        """Return the JSON body in OpenAI's format. request_id: the id of the request in the log;
        empty: left out."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error | ({"request_id": request_id} if request_id else {})}


def shortened(text: str, most: int) -> str:
    """Return a text, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the error 400 for a request with a wrong parameter."""
    return ApiError(400, message, param=param, code=code)


def internal_error() -> ApiError:
    """Return the error 500 for a fault of the server. Only the log has the details."""
    return ApiError(500, "the server had an error", type="server_error", code="internal_error")


def try_again(message: str, *, status: int = 503, seconds: int = 1) -> ApiError:
    """Return the error for a request that may succeed later: the server is full, or is stopping.

    status: 429 if the client sends too much, 503 if the server can't answer now. seconds: the value
    of Retry-After.
    """
    kind = "rate_limit_exceeded" if status == 429 else "service_unavailable"
    return ApiError(
        status, message, type=kind, code=kind, headers={"Retry-After": str(max(seconds, 1))}
    )


def stopping() -> ApiError:
    """Return the error 503 for a request that is not answered because the server is stopping."""
    return try_again("the server is stopping: try again")


def as_api_error(error: UsageError, param: str | None = None) -> ApiError:
    """Return the error 400 for a request that a predictor refuses. param: the parameter that is
    wrong, if `error` does not name one."""
    if isinstance(error, RequestError):
        param = PARAMETER_NAMES.get(error.field, error.field)
    message = str(error)
    is_too_long = any(words in message for words in TOO_LONG)
    if len(message) > MESSAGE_CHARACTERS:  # The message quotes a long input.
        half = MESSAGE_CHARACTERS // 2
        message = f"{message[:half]} ... {message[-half:]}"
    return invalid(message, param, "context_length_exceeded" if is_too_long else None)
