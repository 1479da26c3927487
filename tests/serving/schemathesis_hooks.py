"""What the tests change in schemathesis, which runs in a process of its own: its requests are bent
to the server, and events are read from streams.

Requests name the server's model and ask for little, and most files are of the right type.
Otherwise nearly all of them would be refused.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import schemathesis

MODEL = os.environ["TRIFORM_SERVED_MODEL"]

BOUNDS = json.loads(os.environ["TRIFORM_SERVED_BOUNDS"])
"""The largest values of parameters that are numbers."""

TALLY = Path(os.environ["TRIFORM_SERVED_TALLY"])
"""Gets a line for each success, with the operation."""

FILE = Path(os.environ["TRIFORM_SERVED_FILE"]).read_bytes()

NUMBERS = itertools.count()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Bend a request to the server."""
    is_bent = next(NUMBERS) % 3
    if is_bent and "model" in (case.path_parameters or {}):
        case.path_parameters["model"] = MODEL
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    if is_bent and "file" in body:
        body["file"] = FILE
    if is_bent and case.operation.path == "/v1/fill" and isinstance(body.get("input"), str):
        body["input"] += "[MASK]"
    for name, most in BOUNDS.items():
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            body[name] = 1 + value % most


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Count a success."""
    if response.status_code == 200:
        with TALLY.open("a") as file:
            print(case.operation.label, file=file)


@schemathesis.deserializer("text/event-stream")
def events_of(context: Any, response: Any) -> list[Any]:
    """Return the JSON of each event of a stream, which must end with `[DONE]` or an error."""
    *events, last = [event for event in response.content.decode().split("\n\n") if event]
    contents = [json.loads(event.removeprefix("data: ")) for event in events]
    if last != "data: [DONE]":
        contents.append(json.loads(last.removeprefix("data: ")))
        if "error" not in contents[-1]:
            raise ValueError("a stream without an end")
    return contents
