"""A source of conversations: generated, or from tables with prompt and answer or messages."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from configs.errors import UsageError, blaming
from data.codecs.messages import ASSISTANT, is_absent
from data.sources import generated_talk
from data.sources.messages import messages_of, tools_of, whole
from data.sources.records import JSON_LINES, TextRecords, open_tables
from data.sources.splits import Layout
from data.sources.tables import Rows, no_such_field

_KNOWN = {
    "prompt_field": ("instruction", "question", "query", "prompt", "input", "problem"),
    "answer_field": ("output", "response", "answer", "completion", "target", "solution"),
}
"""Names of fields in well-known data sets, by the setting that chooses the field."""

VERSION = 2
"""Part of the cache key. Increment it when this file or `data.sources.messages` reads conversations
otherwise."""

Conversation = dict[str, Any]
"""`messages`: a list of messages, as `data.codecs.chat` reads them. `fields`: the other fields of
the line."""


@dataclass(frozen=True)
class Conversations(TextRecords):
    """A source of conversations. The `text` of an example is a `Conversation` as JSON."""

    def _parts(self, name: str, found: Conversation) -> Iterator[dict[str, Any]]:
        yield {"document": name, "piece": 0, "text": _json(found)}

    def _most(self, table: Any) -> int:
        return table.rows


@dataclass(frozen=True)
class Generated:
    """The generated conversations of `data.sources.generated_talk`, as a `records.Table`."""

    name: str = "generated"

    @property
    def rows(self) -> int:
        return len(generated_talk.conversations())

    def name_of(self, row: int) -> str:
        return f"{self.name} {row}"


def open_source(settings: Any) -> Conversations:
    """Open the conversations at `data.path`, or generated ones if it is None.

    Files are found and assigned to splits by `files.find_files`. Without a validation split,
    `data.validation_fraction` of the conversations is held out. Raises UsageError if no files are
    found, or if the first record of a file is not a conversation.
    """
    read: Callable[[Any], Iterator[Conversation]] = partial(read_conversations, settings=settings)
    layout: Layout[Any] | None = None
    if settings.path is None:
        tables: dict[str, Any] = {"train": [Generated()]}
        decided: dict[str, Any] = {"generated": generated_talk.VERSION}
        read = lambda _: (  # noqa: E731
            {"messages": messages, "fields": {}} for messages in generated_talk.conversations()
        )
    else:
        tables, decided, layout = open_tables(settings, JSON_LINES, settings.prompt_field, read)
        decided |= {"answer": settings.answer_field, "messages": settings.messages_field}
    decided |= {"version": VERSION}
    return Conversations.of(settings, tables, read, decided, layout=layout)


def read_conversations(rows: Rows, settings: Any) -> Iterator[Conversation]:
    """Yield the conversation of each row. Raises UsageError, which names the line, if a row is
    none."""
    for where, row in rows.read({}):
        with blaming(where):
            found = _conversation(rows, where, row, settings)
        yield found


def _json(found: Conversation) -> str:
    """Return a conversation as JSON; values that JSON does not have, such as dates, become text."""

    def text_of(value: Any) -> str:
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    return json.dumps(found, ensure_ascii=False, default=text_of)


def _conversation(rows: Rows, where: str, row: Mapping[str, Any], settings: Any) -> Conversation:
    given = {name: value for name, value in row.items() if not is_absent(value)}
    names = (settings.messages_field, "conversations")
    name = next((name for name in names if name in given), None)
    if name is None and settings.prompt_field not in row:
        name = next((name for name in names if name in row), None)
    if name is not None:
        messages, taken = messages_of(rows, where, row[name], name), {name}
    else:
        messages = _pair(rows, where, row, settings)
        taken = {settings.prompt_field, settings.answer_field}
    fields = {one: whole(rows, where, given[one], one) for one in given if one not in taken}
    if "tools" in fields:
        fields["tools"] = tools_of(where, fields["tools"])
    return {"messages": messages, "fields": fields}


def _pair(rows: Rows, where: str, row: Mapping[str, Any], settings: Any) -> list[dict[str, Any]]:
    fields = {name: getattr(settings, name) for name in _KNOWN}
    missing = {name: field for name, field in fields.items() if field not in row}
    free = [field for field in row if field not in fields.values()]
    known = {name: next((one for one in _KNOWN[name] if one in free), None) for name in missing}
    if missing and all(known.values()):
        meant = " and ".join(f"data.{name}={field}" for name, field in known.items())
        lacks = " and no field ".join(map(repr, missing.values()))
        raise UsageError(
            f"{where} has no field {lacks}, but {', '.join(row)}: did you mean {meant}?"
        )
    for name, field in missing.items():
        raise no_such_field(where, field, row, f"data.{name}")
    return [
        {"role": role, "content": rows.text_of(where, row, field)}
        for role, field in zip(("user", ASSISTANT), fields.values(), strict=True)
    ]
