"""A source of conversations: generated, or from JSON lines with prompt and answer or messages."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from configs.errors import UsageError
from data.codecs.chat import ASSISTANT
from data.sources import generated_talk
from data.sources.opening import compressible
from data.sources.records import TextRecords, open_tables
from data.sources.tables import Rows, kind_of, no_such_field

SUFFIXES = compressible(".jsonl")

Message = dict[str, str]


@dataclass(frozen=True)
class Conversations(TextRecords):
    """A source of conversations. The `text` of an example is its list of messages as JSON."""

    def _parts(self, name: str, found: list[Message]) -> Iterator[dict[str, Any]]:
        yield {"document": name, "piece": 0, "text": json.dumps(found, ensure_ascii=False)}

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
    read: Callable[[Any], Iterator[list[Message]]] = partial(read_conversations, settings=settings)
    if settings.path is None:
        tables: dict[str, Any] = {"train": [Generated()]}
        decided: dict[str, Any] = {"generated": generated_talk.VERSION}
        read = lambda _: iter(generated_talk.conversations())  # noqa: E731
    else:
        tables, decided = open_tables(settings, SUFFIXES, settings.prompt_field, read)
        decided |= {"answer": settings.answer_field, "messages": settings.messages_field}
    return Conversations.of(settings, tables, read, decided)


def read_conversations(rows: Rows, settings: Any) -> Iterator[list[Message]]:
    """Yield the messages of each row. Raises UsageError, which names the line, if a row is not a
    conversation."""
    for where, row in rows.read({}):
        if settings.messages_field in row:
            yield _messages(rows, where, row, settings.messages_field)
        else:
            yield _pair(rows, where, row, settings)


def _pair(rows: Rows, where: str, row: Mapping[str, Any], settings: Any) -> list[Message]:
    messages = []
    for role, name in (("user", "prompt_field"), (ASSISTANT, "answer_field")):
        field = getattr(settings, name)
        if field not in row:
            raise no_such_field(where, field, row, f"data.{name}")
        messages.append({"role": role, "content": rows.text_of(where, row, field)})
    return messages


def _messages(rows: Rows, where: str, row: Mapping[str, Any], field: str) -> list[Message]:
    found, messages = row[field], []
    if not isinstance(found, list):
        raise UsageError(
            f"{where}: field {field!r} holds {kind_of(found)}, not an array of messages"
        )
    for number, one in enumerate(found, 1):
        place = f"{where}, message {number}"
        if not isinstance(one, dict):
            raise UsageError(f"{place} is {kind_of(one)}, not an object with role and content")
        for name in ("role", "content"):
            if name not in one:
                raise UsageError(f"{place} has no {name}, but {', '.join(one) or 'nothing'}")
        messages.append({name: rows.text_of(place, one, name) for name in ("role", "content")})
    if not any(one["role"] == ASSISTANT for one in messages):
        roles = ", ".join(dict.fromkeys(one["role"] for one in messages)) or "no messages"
        raise UsageError(
            f"{where} has no message of the role {ASSISTANT!r}, but {roles}: there is nothing to "
            "learn"
        )
    return messages
