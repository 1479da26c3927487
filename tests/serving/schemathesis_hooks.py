"""What the tests change in schemathesis, which runs in a process of its own: its requests are bent
to the server, and events are read from streams.

Requests name the server's model, and ask for little. Otherwise nearly all of them would be refused.
"""

import json
import os
from typing import Any

import schemathesis

MODEL = os.environ["TRIFORM_SERVED_MODEL"]

BOUNDS = json.loads(os.environ["TRIFORM_SERVED_BOUNDS"])
"""The largest values of parameters that are numbers."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Let a request name the server's model, and ask for little."""
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    for name, most in BOUNDS.items():
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            body[name] = 1 + value % most


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
