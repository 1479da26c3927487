"""Conversations: of the rows of tables with prompt and answer or messages, or generated ones."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from configs.errors import blaming
from data.codecs.messages import ASSISTANT, is_absent
from data.progress import Progress
from data.sources import generated_talk
from data.sources.messages import messages_of, plain, tools_of
from data.sources.rows import ListedRows, Opened, View
from data.sources.tables import JSON_LINES, no_such_field, open_tables, refuse_known_names
from data.sources.values import text_of

_KNOWN = {
    "data.prompt_field": ("instruction", "question", "query", "prompt", "input", "problem"),
    "data.answer_field": ("output", "response", "answer", "completion", "target", "solution"),
}
"""Names of fields in well-known data sets, by the setting that chooses the field."""

VERSION = 2
"""Part of the cache key. Increment it when this file or `data.sources.messages` reads conversations
otherwise."""


class Conversations(View):
    """A row is a conversation: `document`, its name; `messages`, a list of messages as
    `data.codecs.chat` reads them; `fields`, the other fields of the row."""

    suffixes = JSON_LINES
    things = "conversations"

    @cached_property
    def fields(self) -> dict[str, str]:
        return {}  # a row may have one or another

    @property
    def key(self) -> dict[str, Any]:
        names = ("prompt_field", "answer_field", "messages_field")
        given = [self.named[name] for name in names]
        return super().key | {"conversations": VERSION, "given": given}

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        with blaming(where):
            found = _conversation(where, row, self.named, self.invalid_utf8)
        yield {"document": name, **found}


class _Generated(NamedTuple):
    name: str
    messages: Sequence[Any]


def open_conversations(settings: Any, view: View, progress: Progress) -> Opened:
    """Open the tables at `data.path`, or generated conversations if it is None."""
    if settings.path is not None:
        return open_tables(settings, view, progress)
    every = enumerate(generated_talk.conversations())
    items = [_Generated(f"generated {number}", messages) for number, messages in every]
    rows = ListedRows(
        "generated", items, lambda one: (one.name, {settings.messages_field: one.messages})
    )
    return Opened({"train": [rows]}, {"generated": generated_talk.VERSION})


def _conversation(
    where: str, row: Mapping[str, Any], named: Mapping[str, str], invalid_utf8: str
) -> dict[str, Any]:
    given = {name: value for name, value in row.items() if not is_absent(value)}
    names = (named["messages_field"], "conversations")
    name = next((name for name in names if name in given), None)
    if name is None and named["prompt_field"] not in row:
        name = next((name for name in names if name in row), None)
    if name is not None:
        messages, taken = messages_of(where, row[name], name, invalid_utf8), {name}
    else:
        messages = _pair(where, row, named, invalid_utf8)
        taken = {named["prompt_field"], named["answer_field"]}
    fields = {one: plain(where, given[one], one, invalid_utf8) for one in given if one not in taken}
    if "tools" in fields:
        fields["tools"] = tools_of(where, fields["tools"])
    return {"messages": messages, "fields": fields}


def _pair(
    where: str, row: Mapping[str, Any], named: Mapping[str, str], invalid_utf8: str
) -> list[dict[str, Any]]:
    fields = {named[name]: f"data.{name}" for name in ("prompt_field", "answer_field")}
    refuse_known_names(where, fields, row, _KNOWN)
    for field, setting in fields.items():
        if field not in row:
            raise no_such_field(where, field, row, setting)
    return [
        {"role": role, "content": text_of(where, row, field, invalid_utf8)}
        for role, field in zip(("user", ASSISTANT), fields, strict=True)
    ]
