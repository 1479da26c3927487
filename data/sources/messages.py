"""Reads messages in the forms that people have them: of OpenAI, ShareGPT and Hugging Face."""

import json
from collections.abc import Mapping
from typing import Any

from configs.errors import UsageError
from data.codecs.messages import ASSISTANT, REASONING, is_absent, is_answer, usual_role
from data.sources.values import kind_of, text_of, whole_text

Message = dict[str, Any]

_SHAREGPT = {"from": "role", "value": "content"}
_SAID = frozenset({"tool_calls", "function_call", *REASONING})  # may stand without content


def messages_of(where: str, value: Any, field: str, invalid_utf8: str) -> list[Message]:
    """Return the messages in `value` of a row.

    where: the row's location, for errors.
    field: the name of the value.
    invalid_utf8: `data.invalid_utf8`.

    `from` and `value` of a message become `role` and `content`; content of several texts becomes
    one; arguments of calls that are JSON text become objects; a tool's answer gets the name of its
    function. Fields that say nothing, such as null, are left out. Raises UsageError, which names
    the message, if one can't be read, or if none is the assistant's.
    """
    if not isinstance(value, list):
        raise UsageError(
            f"{where}: field {field!r} holds {kind_of(value)}, not an array of messages"
        )
    messages = [
        _message(f"{where}, message {number}", one, invalid_utf8)
        for number, one in enumerate(value, 1)
    ]
    if not any(map(is_answer, messages)):
        roles = ", ".join(dict.fromkeys(one["role"] for one in messages)) or "no messages"
        raise UsageError(
            f"{where} has no message of the role {ASSISTANT!r}, but {roles}: there is nothing to "
            "learn"
        )
    names: dict[str, Any] = {}
    for number, message in enumerate(messages, 1):
        for function, identity in _functions(f"{where}, message {number}", message):
            names[json.dumps(identity)] = function.get("name")
            function |= _arguments(function)
        name = names.get(json.dumps(message.get("tool_call_id")))
        if usual_role(message["role"]) == "tool" and not is_absent(name):
            message.setdefault("name", name)
    return messages


def tools_of(where: str, value: Any) -> list[Any]:
    """Return the tools of a row, which may be an array or its JSON text. Raises UsageError for
    anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UsageError(f"{where}: field 'tools' is a text, but no JSON") from None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise UsageError(f"{where}: field 'tools' holds no array of objects")
    return value


def plain(where: str, value: Any, field: str, invalid_utf8: str) -> Any:
    """Return a value as JSON has it: others, such as dates, become text. Texts have no unpaired
    surrogates; the parameters are those of `whole_text`."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str):
        return whole_text(value, invalid_utf8, where, field)
    if isinstance(value, Mapping):
        return {
            plain(where, name, field, invalid_utf8): plain(where, one, field, invalid_utf8)
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(where, one, field, invalid_utf8) for one in value]
    return value if value is None or isinstance(value, int | float) else str(value)


def _message(place: str, one: Any, invalid_utf8: str) -> Message:
    if not isinstance(one, dict):
        raise UsageError(f"{place} is {kind_of(one)}, not an object with role and content")
    names = {old: new for old, new in _SHAREGPT.items() if old in one and new not in one}
    one = {names.get(name, name): value for name, value in one.items()}
    if is_absent(one.get("content")) and isinstance(one.get("refusal"), str):
        one["content"] = one.pop("refusal")
    if one.get("content") is None and any(not is_absent(one.get(name)) for name in _SAID):
        one["content"] = ""
    for name in ("role", "content"):
        if name not in one:
            raise UsageError(f"{place} has no {name}, but {', '.join(one) or 'nothing'}")
    if isinstance(one["content"], list):
        one["content"] = _joined(place, one["content"])
    texts = {name: text_of(place, one, name, invalid_utf8) for name in ("role", "content")}
    others = {name: plain(place, value, name, invalid_utf8) for name, value in one.items()}
    message = {
        name: value
        for name, value in (others | texts).items()
        if name in texts or not is_absent(value)
    }
    _check_loss(place, message)
    return message


def _joined(place: str, parts: list[Any]) -> str:
    """Return the text of content that is an array of parts."""
    for number, part in enumerate(parts, 1):
        is_part = isinstance(part, dict)
        kind = repr(part.get("type")) if is_part else kind_of(part)
        if kind != "'text'" or not isinstance(part.get("text"), str):
            raise UsageError(
                f"{place}: part {number} of the content is {kind}, not a text: conversations are "
                'of text alone, {"type": "text", "text": ...}'
            )
    return "".join(part["text"] for part in parts)


def _check_loss(place: str, message: Message) -> None:
    """Raise UsageError if a message has a `weight` or `train` that can't be followed."""
    for name, values in (("weight", "0 or 1"), ("train", "true or false")):
        if name not in message:
            continue
        value = message[name]
        if value not in (0, 1) or (name == "train" and not isinstance(value, bool)):
            raise UsageError(f"{place}: field {name!r} is {json.dumps(value)}, not {values}")
        if value and not is_answer(message):
            raise UsageError(
                f"{place}: field {name!r} is {json.dumps(value)}, but only the assistant's "
                f"messages are learnt, not those of the role {message['role']!r}"
            )


def _functions(place: str, message: Message) -> list[tuple[dict[str, Any], Any]]:
    """Return the function of each call of a message, and the call's id."""
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UsageError(f"{place}: field 'tool_calls' holds no array of objects")
    functions = [(call.get("function", call), call.get("id")) for call in calls]
    if not all(isinstance(function, dict) for function, _ in functions):
        raise UsageError(f"{place}: 'function' in the field 'tool_calls' is no object")
    return functions


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call as an object, if they are the JSON text of one."""
    given = function.get("arguments")
    if isinstance(given, str):
        try:
            found = json.loads(given)
        except (ValueError, RecursionError):
            return {}
        if isinstance(found, dict):
            return {"arguments": found}
    return {}
