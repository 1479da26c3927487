"""Prepares conversations as windows of tokens; only the assistant's tokens count in the loss.

Each conversation starts with the separator. Conversations are packed into windows by best fit
decreasing (see `data.best_fit`). A conversation longer than a window is cut at its end; it is left
out if no assistant's token remains.
"""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError, blaming
from data import best_fit
from data.codecs.chat import ChatEncoder, ChatTemplate, Encoded, texts_of
from data.codecs.messages import (
    Messages,
    is_answer,
    is_empty,
    is_excluded,
    is_learnt,
    usual_role,
)
from data.codecs.rendered import Piece
from data.dataset import Split
from data.driver import Part, Preparation
from data.length_buckets import Lengths
from data.progress import AT_ONCE
from data.sources.source import Source

VERSION = 3
"""Part of the cache key. Increment it when this file or `data.codecs.chat` makes different examples
or counts."""

_PARTS_OF_PROMPTS = ("input", "context", "history")
"""Fields of lines in which data sets keep a part of the prompt."""

_LISTED = 12  # names in a message
_SHOWN = 60  # characters of a template in a message


class ConversationCodec(best_fit.PackedCodec):
    """Stores windows of conversations. The field `learnt` marks the assistant's tokens."""

    marks_learnt = True


@dataclass(frozen=True)
class Conversation:
    """A conversation as the source reads it: its name, its messages, other fields of its line.

    first: the number of the first message; 0 if it is not in the list, but was another field.
    """

    name: str
    messages: Messages
    fields: Mapping[str, Any]
    first: int = 1


class ConversationPreparation(Preparation):
    """Prepares conversations as windows of tokens. A raw example has a `document` (the name),
    `messages`, as `data.codecs.chat` reads them, and the other `fields` of its line."""

    things = "conversations"

    def __init__(self, sources: Sequence[Source], settings: Any):
        super().__init__(sources, settings)
        self._unread: dict[str, None] = {}  # the names of fields that nothing reads
        text = settings.chat_template
        if text is not None and "{{" not in text and "{%" not in text:
            raise _no_template(text)
        try:
            self._template = ChatTemplate(text)
        except ValueError as error:
            raise UsageError(f"data.chat_template: {error}") from None

    def key(self) -> dict[str, Any]:
        return {
            "conversations": VERSION,
            "template": self.settings.chat_template,
            "packing": {"best_fit": best_fit.VERSION, "block_tokens": best_fit.BLOCK_TOKENS},
            "sequence_length": self.settings.sequence_length,
        }

    def texts(self, part: Part) -> Iterator[str]:
        for example in part.examples:
            pieces = self._rendered(self._template, _read(example, self._template))
            yield "".join(piece.text for piece in pieces if not piece.is_special)

    def codec(self, split: str, lengths: Lengths | None = None) -> ConversationCodec:
        return ConversationCodec(self.settings.sequence_length, self.tokenizer.vocabulary_size)

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        codec = self.codec(part.split)
        counted = ("bytes", "targets", "unknown", "tokens", "conversations", "cut")
        part.counts = dict.fromkeys(counted, 0)
        yield from best_fit.pack(self._runs(part), codec.dtype, codec.length)
        if not part.written:
            if any(what == self._left_out for what, _ in part.noted()):
                raise UsageError(
                    f"no conversation of {part.split} has an answer within data.sequence_length="
                    f"{codec.length}: make it longer"
                )
            raise UsageError(
                f"no conversation of {part.split} has an answer to learn: all are empty, or their "
                "`weight` or `train` excludes them"
            )
        part.counts["padding"] = 1 - part.counts["tokens"] / (part.written * codec.length)

    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        length = self.settings.sequence_length
        return DataSpec(vocabulary_size=self.tokenizer.vocabulary_size, max_length=length)

    def last_warnings(self) -> Iterator[str]:
        if self._unread:
            names = [*self._unread]
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            yield f"fields of lines that are not read: {', '.join(names[:_LISTED])}{more}"
        if self._template.writes_date:
            yield (
                f"data.chat_template writes the date, here {date.today()}: data that are prepared "
                "on another day differ"
            )

    @property
    def _too_long(self) -> str:
        return f"are longer than data.sequence_length={self.settings.sequence_length}"

    @property
    def _left_out(self) -> str:
        return f"{self._too_long} before any answer, and left out"

    def _rendered(self, template: ChatTemplate, one: Conversation) -> Sequence[Piece]:
        """Return the pieces of a conversation. Raises UsageError, with its name, if the template
        refuses it, or if a part of its prompt would be lost."""
        if (lost := _lost_part(one, template)) is not None:
            raise UsageError(
                f"{one.name}: the field {lost!r} is in no message, and would be lost: make it a "
                f"part of the prompt, which is data.prompt_field={self.settings.prompt_field}, or "
                "of a message, or remove it"
            )
        try:
            return template.conversation(one.messages, one.fields, first=one.first)
        except ValueError as error:
            where = "" if self.settings.chat_template is None else "data.chat_template: "
            raise UsageError(f"{where}{one.name}: {error}") from None

    def _runs(self, part: Part) -> Iterator[best_fit.Run]:
        """Yield a run for each conversation that is not left out, and count."""
        counts, length, tokenizer = part.counts, self.settings.sequence_length, self.tokenizer
        specials = [*tokenizer.special_tokens().values()]
        unknown = -1 if tokenizer.unknown_id is None else tokenizer.unknown_id
        encoder = ChatEncoder(tokenizer, self.settings.chat_template)
        for conversation, one in self._encoded(part, encoder):
            ids, learnt = one.ids[: length + 1], one.learnt[1 : length + 1]
            if learnt.any():
                if len(ids) < len(one.ids):
                    counts["cut"] += 1
                    part.note(f"{self._too_long} and cut")
            elif one.learnt.any():
                part.note(self._left_out)
            else:
                part.note("have no answer to learn, and are left out")
            if np.any(one.ids == unknown):
                part.note("have characters that the tokenizer does not know")
            for what in _notes(conversation, one, encoder.template):
                part.note(what, conversation.name)
            read = encoder.template.variables
            self._unread |= dict.fromkeys(name for name in conversation.fields if name not in read)
            if not learnt.any():
                continue
            targets = ids[1:]
            counts["conversations"] += 1
            counts["targets"] += int(learnt.sum())
            counts["unknown"] += int(np.count_nonzero(targets[learnt] == unknown))
            counts["tokens"] += len(targets)
            written = targets[learnt & ~np.isin(targets, specials)]
            counts["bytes"] += len(tokenizer.decode(written).encode())
            yield {"tokens": ids[:-1], "targets": targets, "learnt": learnt}

    def _encoded(self, part: Part, encoder: ChatEncoder) -> Iterator[tuple[Conversation, Encoded]]:
        template = encoder.template
        for block in part.read("packing", AT_ONCE):
            conversations = [_read(one, template) for one in block]
            rendered = [self._rendered(template, one) for one in conversations]
            with blaming("data.chat_template"):
                encoded = encoder.encode_rendered(rendered)
            yield from zip(conversations, encoded, strict=True)


def _read(example: Mapping[str, Any], template: ChatTemplate) -> Conversation:
    """Return a raw example as a conversation. A text in the field `system` becomes the first
    message, unless there is one or the template reads this field itself."""
    name, messages, fields = example["document"], example["messages"], dict(example["fields"])
    is_message = isinstance(fields.get("system"), str) and "system" not in template.variables
    if not is_message or usual_role(messages[0]["role"]) == "system":
        return Conversation(name, messages, fields)
    messages = [{"role": "system", "content": fields.pop("system")}, *messages]
    return Conversation(name, messages, fields, first=0)


def _lost_part(of: Conversation, template: ChatTemplate) -> str | None:
    """Return the name of a field with a part of the prompt that neither the template nor a message
    before the last has; None if there is none."""
    said = "\n".join(message["content"] for message in of.messages[:-1])
    for name in _PARTS_OF_PROMPTS:
        if name not in template.variables:
            texts = texts_of(of.fields.get(name))
            if any(text.strip() not in said for text in texts):
                return name
    return None


def _notes(of: Conversation, encoded: Encoded, template: ChatTemplate) -> Iterator[str]:
    """Yield what the user should know of a conversation, as the rest of a sentence about it."""
    for role, usual in template.other_roles(of.messages).items():
        yield f"have messages of the role {role!r}, which is read as {usual!r}"
    for role in template.unknown_roles(of.messages):
        yield f"have messages of the role {role!r}, which are read as they are, and not learnt"
    if of.first == 0:
        yield "have a field 'system', which is read as the first message"
    answers = [message for message in of.messages if is_answer(message)]
    if any(is_empty(one) and not is_learnt(one) and not is_excluded(one) for one in answers):
        yield "have an empty answer, which is not learnt"
    if not is_answer(last := of.messages[-1]):
        yield f"end with a message of the role {last['role']!r}, which is not learnt"
    if encoded.differs:
        yield (
            "have an answer whose first characters share a token with the text before it, so that "
            "the prompt alone has other tokens"
        )


def _no_template(text: str) -> UsageError:
    """Return the error for a template that writes the same for all messages, such as a path."""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if "\n" not in text and (os.path.isfile(text) or text.endswith((".jinja", ".jinja2", ".j2"))):
        what = f"data.chat_template={shown} is a path; a template is given as text"
    else:
        what, text = f"data.chat_template={shown} writes nothing of the messages", "FILE"
    return UsageError(f'{what}: --config.data.chat_template="$(cat {shlex.quote(text)})"')
