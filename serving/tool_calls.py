"""Tool calls in texts, in the format of Hermes: `<tool_call>{"name": ..., "arguments":
{...}}</tool_call>`."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.engine import grammars
from serving.errors import invalid
from serving.forms.chat import Tool

OPENING, CLOSING = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class ToolCall:
    """A tool call. arguments: a JSON object, as text. id: a random id."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: "call_" + secrets.token_hex(12))


class ToolCallReader:
    """Finds the tool calls in a text that arrives in parts.

    most_calls: text after this many calls is dropped; None: no limit. Anything that begins like a
    call but is not a valid one stays in the text. White space around calls is dropped.
    """

    def __init__(self, *, most_calls: int | None = None):
        self._most_calls, self._calls = most_calls, 0
        self._rest = ""  # what may still become a call, or white space before one
        self._is_after_call = False
        self._closings = 0  # in the rest, at the last attempt to read a call

    def read(self, text: str, *, is_end: bool = False) -> list[str | ToolCall]:
        """Add a part of the text. Return, in order, the texts and calls that later parts can't
        change. is_end: whether it is the last part."""
        self._rest += text
        found: list[str | ToolCall] = []
        while self._rest and (parts := self._next(is_end)):
            found += filter(None, parts)
        return found

    def _next(self, is_end: bool) -> Sequence[str | ToolCall]:
        """Remove and return the next texts and calls in the rest; empty if more text is needed."""
        if self._calls == self._most_calls:
            self._rest = ""
            return []
        start = self._rest.find(OPENING)
        if start < 0:
            return self._plain(len(self._rest) - (0 if is_end else _held_back(self._rest)))
        if self._rest[:start].strip():
            return self._plain(len(self._rest[:start].rstrip()))
        closings = self._rest.count(CLOSING, start)
        if closings == self._closings and not is_end:
            return []
        self._closings = closings
        call, end = _call_in(self._rest, start + len(OPENING), is_end=is_end)
        if call is None:
            return self._plain(start + len(OPENING)) if is_end else []
        self._rest, self._closings = self._rest[end:], 0
        self._calls, self._is_after_call = self._calls + 1, True
        return [call]

    def _plain(self, length: int) -> Sequence[str | ToolCall]:
        """Remove `length` characters from the rest. Return them as text, without white space after
        a call."""
        if not length:
            return []
        text, self._rest = self._rest[:length], self._rest[length:]
        if self._is_after_call:
            text = text.lstrip()
            self._is_after_call = not text
        return [text]


def _held_back(text: str) -> int:
    """Return the number of characters at the end that may belong to a call: white space, and a
    beginning of the opening tag."""
    start = next(
        (n for n in range(len(OPENING) - 1, 0, -1) if text.endswith(OPENING[:n])),
        0,
    )
    before = text[: len(text) - start]
    return start + len(before) - len(before.rstrip())


def _call_in(text: str, start: int, *, is_end: bool) -> tuple[ToolCall | None, int]:
    """Return the call whose JSON begins at `start`, and the position after it; None and `start` if
    there is no valid call.

    is_end: whether the text is complete; if so, the closing tag may be cut off or missing.
    """
    content = text[start:].lstrip()
    try:
        value, length = _DECODER.raw_decode(content)
    except (ValueError, RecursionError):
        return None, start
    after = content[length:].lstrip()
    if not after.startswith(CLOSING) and not (is_end and CLOSING.startswith(after)):
        return None, start
    name = value.get("name") if isinstance(value, dict) else None
    arguments = value.get("arguments", {}) if isinstance(value, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None, start
    end = len(text) - len(after) + min(len(after), len(CLOSING))
    return ToolCall(_unicode(name), _unicode(json.dumps(arguments, ensure_ascii=False))), end


def _unicode(text: str) -> str:
    """Return a text that UTF-8 can encode: half of a surrogate pair, which JSON can escape, becomes
    a question mark."""
    return text.encode(errors="replace").decode()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def call_grammar(tools: Sequence[Tool], *, is_required: bool, may_repeat: bool) -> str:
    """Return the grammar, in Lark's syntax, of texts whose calls match `tools`.

    is_required: whether the text must be a call; otherwise it may be any text, with or without
    calls. may_repeat: whether a text that need not be a call may contain several. Raises `ApiError`
    for parameters that are not a JSON schema.
    """
    if is_required:
        lines = [f'start: "{OPENING}" call']
    else:
        calls = "(text call)+ tail" if may_repeat else "text call"
        lines = [f"start: tail | {calls}", "tail: /(?s:.*)/"]
        lines += [f'text[suffix="{OPENING}"]: /(?s:.*)/']
    names = [f"call_{number}" for number in range(len(tools))]
    lines += [f'call: "\\n"? ({" | ".join(names)}) "\\n"? "{CLOSING}"']
    for number, tool in enumerate(tools):
        try:
            schema = grammars.json_rule(tool.function.arguments_schema)
        except ValueError as error:
            place = f"tools.{number}.function.parameters"
            raise invalid(f"{place} {error}", place) from None
        opening = json.dumps(f'{{"name": "{tool.function.name}", "arguments": ')
        lines += [f'call_{number}: {opening} arguments_{number} "}}"']
        lines += [f"arguments_{number}: %json {schema}"]
    return "\n".join(lines)
