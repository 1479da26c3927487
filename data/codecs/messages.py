"""Messages of conversations: whose they are, and whether they count in the loss."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]
"""Messages of JSON values. All have a `role` and a `content`, which are texts."""

ASSISTANT = "assistant"

_OTHER_NAMES = {
    "human": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
    "ai": ASSISTANT,
    "observation": "tool",
    "developer": "system",
}
"""Other names of roles. A template that names one itself gets it unchanged."""

_ROLES = frozenset({"system", "user", ASSISTANT, "tool", "function"})
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Three names of one field; templates read one of the first two."""

_LOSS = frozenset({"weight", "train"})
_LINKS = frozenset({"tool_call_id", "name"})  # which call a tool answers


def usual_role(role: str) -> str:
    """Return the usual name of a role, such as "assistant" for "gpt" or "Assistant"; any other role
    unchanged."""
    plain = role.strip().casefold()
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in _ROLES else role


def is_usual(role: str) -> bool:
    """Return whether a role is a usual one, or another name of one."""
    return usual_role(role) in _ROLES


def is_answer(message: Mapping[str, Any]) -> bool:
    """Return whether a message is the assistant's."""
    return usual_role(message["role"]) == ASSISTANT


def is_empty(message: Mapping[str, Any]) -> bool:
    """Return whether a message has no text, and no other field that says something."""
    quiet = {"role", "content", *_LOSS, *_LINKS}
    return not message["content"].strip() and all(
        name in quiet or is_absent(value) for name, value in message.items()
    )


def is_learnt(message: Mapping[str, Any]) -> bool:
    """Return whether a message counts in the loss: it is the assistant's, and its `weight` and
    `train` do not exclude it. An empty one must be included by one of them."""
    if not is_answer(message) or is_excluded(message):
        return False
    return not is_empty(message) or any(message.get(name) for name in _LOSS)


def is_excluded(message: Mapping[str, Any]) -> bool:
    """Return whether the `weight` or `train` of a message excludes it from the loss."""
    return any(message.get(name) in (0, False) for name in _LOSS)


def is_absent(value: Any) -> bool:
    """Return whether the value of a field says as much as if the field were missing."""
    return value is None or value in ("", [], {})


class NotedMessage(dict[str, Any]):
    """A message that notes which of its fields a template reads."""

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__(fields)
        self._read: set[str] = set()

    def unread(self) -> str | None:
        """Return the name of a field that says something and was not read; None if there is
        none."""
        read = {"role", "content", "tool_call_id", *_LOSS, *self._read}
        if dict.get(self, "role") in ("tool", "function"):
            read |= _LINKS
        if not read.isdisjoint(REASONING):
            read.update(REASONING)
        told = (name for name, value in dict.items(self) if not is_absent(value))
        return next((name for name in told if name not in read), None)

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self._read.add(str(name))
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self._read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self._read.update(super().keys())
        return super().keys()

    def values(self) -> Any:
        self._read.update(super().keys())
        return super().values()

    def items(self) -> Any:
        self._read.update(super().keys())
        return super().items()
