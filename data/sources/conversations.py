"""Conversations: JSON lines with a prompt and its answer, or with messages; or generated ones."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from configs import UsageError
from data.codecs.chat import ASSISTANT
from data.sources import generated_talk
from data.sources.records import Records, open_tables
from data.sources.tables import JSONLines, kind_of, no_such_field, text_of

SUFFIXES = (".jsonl", ".jsonl.gz")

Message = dict[str, str]


class Table(Protocol):
    """Conversations in their order."""

    name: str

    @property
    def rows(self) -> int: ...

    @property
    def size(self) -> int:
        """Bytes of all, roughly."""
        ...

    def conversations(self) -> Iterator[list[Message]]: ...


@dataclass(frozen=True)
class Lines:
    """The conversations of a file; `settings` are those of the source."""

    lines: JSONLines
    settings: Any

    @property
    def name(self) -> str:
        return self.lines.name

    @property
    def rows(self) -> int:
        return self.lines.rows

    @property
    def size(self) -> int:
        return self.lines.size

    def conversations(self) -> Iterator[list[Message]]:
        """Raises UsageError, with the line, for what is no conversation."""
        for where, record in self.lines.read({}):
            if self.settings.messages_field in record:
                yield self._messages(where, record[self.settings.messages_field])
            else:
                yield self._pair(where, record)

    def _pair(self, where: str, record: Mapping[str, Any]) -> list[Message]:
        fields = {
            "user": ("data.prompt_field", self.settings.prompt_field),
            ASSISTANT: ("data.answer_field", self.settings.answer_field),
        }
        messages = []
        for role, (setting, field) in fields.items():
            if field not in record:
                raise no_such_field(where, field, record, setting)
            content = text_of(where, record, field, self.settings.invalid_utf8)
            messages.append({"role": role, "content": content})
        return messages

    def _messages(self, where: str, found: Any) -> list[Message]:
        field = self.settings.messages_field
        if not isinstance(found, list):
            raise UsageError(
                f"{where}: field {field!r} holds {kind_of(found)}, not an array of messages"
            )
        messages = []
        for number, one in enumerate(found, 1):
            place = f"{where}, message {number}"
            if not isinstance(one, dict):
                raise UsageError(f"{place} is {kind_of(one)}, not an object with role and content")
            for name in ("role", "content"):
                if name not in one:
                    raise UsageError(f"{place} has no {name}, but {', '.join(one) or 'nothing'}")
            names = ("role", "content")
            texts = {n: text_of(place, one, n, self.settings.invalid_utf8) for n in names}
            messages.append(texts)
        if not any(one["role"] == ASSISTANT for one in messages):
            roles = ", ".join(dict.fromkeys(one["role"] for one in messages)) or "no messages"
            raise UsageError(
                f"{where} has no message of the role {ASSISTANT!r}, but {roles}: there is nothing "
                "to learn"
            )
        return messages


@dataclass(frozen=True)
class Generated:
    """The conversations of `data.sources.generated_talk`."""

    talk: Sequence[list[Message]]
    name: str = "generated"
    size: int = 0

    @property
    def rows(self) -> int:
        return len(self.talk)

    def conversations(self) -> Iterator[list[Message]]:
        return iter(self.talk)


class Conversations(Records):
    """A source whose examples are conversations: the `text` of each is its messages, as JSON."""

    def _rows(self, table: Table) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((json.dumps(one, ensure_ascii=False), {}) for one in table.conversations())

    def _cut(self, text: str) -> Sequence[str]:
        return [text]


def open_source(settings: Any) -> Conversations:
    """The conversations at `data.path`: files found and split as those of `records` are; without
    a path, generated ones.

    Without a validation part `data.validation_fraction` of them is held out. Raises UsageError.
    """
    if settings.path is None:
        tables: dict[str, Any] = {"train": [Generated(generated_talk.conversations())]}
        decided: dict[str, Any] = {"generated": generated_talk.VERSION}
    else:
        tables, files = open_tables(
            settings,
            SUFFIXES,
            lambda path, name: _open(path, name, settings),
            lambda table: table.conversations(),
        )
        names = ("prompt_field", "answer_field", "messages_field", "invalid_utf8")
        decided = {"files": files, **{name: getattr(settings, name) for name in names}}
    held_out = 0.0 if "validation" in tables else settings.validation_fraction
    return Conversations("conversations", tables, decided, held_out)


def _open(path: Path, name: str, settings: Any) -> Lines:
    return Lines(JSONLines(path, name, settings.prompt_field, settings.invalid_utf8), settings)
