"""The log of the server: one JSON object per line, on standard error."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("triform.serving")


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object. Control characters are escaped, so that a request can't
    inject lines into the log."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def set_up_logging() -> None:
    """Send the log of the server, of uvicorn and asyncio to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("triform.serving", "uvicorn", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("uvicorn.error").handlers = []
    logging.getLogger("uvicorn.error").propagate = True
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # It logs parts of bodies.
    _LOGGER.setLevel(logging.INFO)


def log(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Write a line to the log. event: the value of its member `event`. fields: further members."""
    _LOGGER.log(level, event, extra={"fields": fields})


def log_fault(request_id: str, error: BaseException) -> None:
    """Log an unexpected error with its traceback. The client only gets the id of the request."""
    _LOGGER.error(
        "fault",
        exc_info=(type(error), error, error.__traceback__),
        extra={"fields": {"request_id": request_id}},
    )
