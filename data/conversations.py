"""Prepares conversations as windows of tokens; only the assistant's tokens count in the loss.

Each conversation starts with the separator. Conversations are packed into windows by best fit
decreasing (see `data.best_fit`). A conversation longer than a window is cut at its end; it is left
out if no assistant's token remains.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from configs.data_spec import DataSpec
from configs.errors import UsageError, blaming
from data import best_fit
from data.cache import digest
from data.cleaning import Pieces
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
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, Split
from data.progress import Progress, read_blocks
from data.records import write_records
from data.sources.source import RawExamples, RawSplits
from data.text import PIECES_AT_ONCE, TOKENIZER, make_tokenizer, tokenizer_key

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


@dataclass
class ConversationCounts:
    """Counts for a split of conversations.

    conversations: number of all conversations.
    cut: number of conversations cut at the end of a window.
    left_out: number of conversations left out because no answer is within a window.
    unlearnt: number of conversations left out because none of their messages counts.
    unknown: number of conversations with an unknown token.
    targets: number of the assistant's tokens, which count in the loss.
    unknown_targets: number of such targets that are the unknown token.
    positions: number of targets of all roles.
    bytes: UTF-8 bytes of the assistant's text.
    notes: what to tell the user of some conversations: their number and the name of the first.
    unread: the names of fields of lines that nothing reads.
    """

    conversations: int = 0
    cut: int = 0
    left_out: int = 0
    unlearnt: int = 0
    unknown: int = 0
    targets: int = 0
    unknown_targets: int = 0
    positions: int = 0
    bytes: int = 0
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def note(self, name: str, whats: Iterator[str]) -> None:
        """Count that what `whats` say is so of the conversation `name`."""
        for what in whats:
            count, first = self.notes.get(what, (0, name))
            self.notes[what] = count + 1, first


@dataclass(frozen=True)
class Conversation:
    """A conversation as the source reads it: its name, its messages, other fields of its line.

    first: the number of the first message; 0 if it is not in the list, but was another field.
    """

    name: str
    messages: Messages
    fields: Mapping[str, Any]
    first: int = 1


@dataclass(frozen=True)
class ConversationPreparation:
    """Prepares conversations as windows of tokens. settings: `config.data`."""

    settings: Any

    def cache_key(self) -> dict[str, Any]:
        self._template()  # raises before anything is written
        return {
            "conversations": VERSION,
            "template": self.settings.chat_template,
            "packing": {"best_fit": best_fit.VERSION, "block_tokens": best_fit.BLOCK_TOKENS},
            "sequence_length": self.settings.sequence_length,
            "tokenizer": tokenizer_key(self.settings.tokenizer),
        }

    def write(
        self, sources: Sequence[RawSplits], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        (splits,) = sources
        for records in splits.values():
            self._check(records)
        tokenizer = make_tokenizer(
            self.settings.tokenizer, [Pieces(splits["train"], self._text())], progress
        )
        tokenizer.save(folder / TOKENIZER)
        codec, metadata, hashes = self._codec(tokenizer), {}, {}
        for split, records in splits.items():
            counts = ConversationCounts()
            runs = self._runs(split, records, tokenizer, counts, progress)
            windows = best_fit.pack(runs, codec.dtype, codec.length)
            count, hashes[split] = write_records(folder / f"{split}.array_record", windows)
            if not count and counts.left_out:
                raise UsageError(
                    f"no conversation of {split} has an answer within data.sequence_length="
                    f"{codec.length}: make it longer"
                )
            if not count:
                raise UsageError(
                    f"no conversation of {split} has an answer to learn: all are empty, or their "
                    "`weight` or `train` excludes them"
                )
            metadata[split] = {"examples": count, **vars(counts)}
        decided = {"records": hashes, "vocabulary": tokenizer.vocabulary()}
        return {
            "fingerprint": digest(decided),
            "splits": metadata,
            "date": str(date.today()) if self._template().writes_date else None,
        }

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        tokenizer = Tokenizer.load(folder / TOKENIZER)
        codec, splits, warnings = self._codec(tokenizer), {}, []
        for name, numbers in metadata["splits"].items():
            examples, total = numbers["examples"], numbers["conversations"]
            splits[name] = Split(
                name,
                folder / f"{name}.array_record",
                codec,
                examples,
                bytes=numbers["bytes"],
                targets=numbers["targets"],
                tokens=numbers["positions"],
                conversations=total - numbers["left_out"] - numbers["unlearnt"],
                padding=1 - numbers["positions"] / (examples * codec.length),
                cut=numbers["cut"],
                unknown=numbers["unknown_targets"],
            )
            too_long = f"longer than data.sequence_length={codec.length}"
            for count, what in (
                (numbers["cut"], f"are {too_long} and cut"),
                (numbers["left_out"], f"are {too_long} before any answer, and left out"),
                (numbers["unlearnt"], "have no answer to learn, and are left out"),
                (numbers["unknown"], "have characters that the tokenizer does not know"),
            ):
                if count:
                    warnings.append(f"{count:,} of {total:,} conversations of {name} {what}")
            for what, (count, first) in numbers["notes"].items():
                warnings.append(
                    f"{count:,} of {total:,} conversations of {name} {what}, such as {first}"
                )
        unread = [one for numbers in metadata["splits"].values() for one in numbers["unread"]]
        if unread:
            names = [*dict.fromkeys(unread)]
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            warnings.append(
                f"fields of lines that are not read: {', '.join(names[:_LISTED])}{more}"
            )
        if metadata["date"] is not None:
            warnings.append(
                f"data.chat_template writes the date, here {metadata['date']}: data that are "
                "prepared on another day differ"
            )
        spec = DataSpec(vocabulary_size=tokenizer.vocabulary_size, max_length=codec.length)
        return Dataset(metadata["fingerprint"], splits, spec, tokenizer, warnings=tuple(warnings))

    def _codec(self, tokenizer: Tokenizer) -> ConversationCodec:
        return ConversationCodec(self.settings.sequence_length, tokenizer.vocabulary_size)

    def _template(self) -> ChatTemplate:
        text = self.settings.chat_template
        if text is not None and "{{" not in text and "{%" not in text:
            raise _no_template(text)
        try:
            return ChatTemplate(text)
        except ValueError as error:
            raise UsageError(f"data.chat_template: {error}") from None

    def _check(self, records: RawExamples) -> None:
        """Raise UsageError, with the conversation's name, if the template refuses one."""
        template = self._template()
        for block in read_blocks(records, PIECES_AT_ONCE):
            for one in block:
                self._rendered(template, _read(one, template))

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

    def _text(self) -> Callable[[str], str]:
        """Return a function that maps a conversation (JSON) to text for training a tokenizer."""
        template = self._template()

        def text(content: str) -> str:
            one = _read({"document": b"", "text": content}, template)
            pieces = template.conversation(one.messages, one.fields)
            return "".join(piece.text for piece in pieces if not piece.is_special)

        return text

    def _runs(
        self,
        split: str,
        records: RawExamples,
        tokenizer: Tokenizer,
        counts: ConversationCounts,
        progress: Progress,
    ) -> Iterator[best_fit.Run]:
        """Yield a run for each conversation that is not left out, and add to `counts`."""
        stage, length = f"packing {split}", self.settings.sequence_length
        specials = list(tokenizer.special_tokens().values())
        unknown = tokenizer.unknown_id
        encoder = ChatEncoder(tokenizer, self.settings.chat_template)
        for conversation, one in self._encoded(stage, records, encoder, progress):
            counts.conversations += 1
            counts.unknown += bool(np.any(one.ids == unknown))
            counts.note(conversation.name, _notes(conversation, one, encoder.template))
            read = {*encoder.template.variables, *counts.unread}
            counts.unread += [name for name in conversation.fields if name not in read]
            ids, learnt = one.ids[: length + 1], one.learnt[1 : length + 1]
            if not learnt.any():
                counts.left_out += bool(one.learnt.any())
                counts.unlearnt += not one.learnt.any()
                continue
            counts.cut += len(ids) < len(one.ids)
            targets = ids[1:]
            counts.targets += int(learnt.sum())
            counts.unknown_targets += int(np.count_nonzero(targets[learnt] == unknown))
            counts.positions += len(targets)
            written = targets[learnt & ~np.isin(targets, specials)]
            counts.bytes += len(tokenizer.decode(written).encode())
            yield {"tokens": ids[:-1], "targets": targets, "learnt": learnt}

    def _encoded(
        self, stage: str, records: RawExamples, encoder: ChatEncoder, progress: Progress
    ) -> Iterator[tuple[Conversation, Encoded]]:
        template = encoder.template
        for block in read_blocks(records, PIECES_AT_ONCE, progress, stage, "conversations"):
            conversations = [_read(one, template) for one in block]
            rendered = [self._rendered(template, one) for one in conversations]
            with blaming("data.chat_template"):
                encoded = encoder.encode_rendered(rendered)
            yield from zip(conversations, encoded, strict=True)


def _read(example: Mapping[str, Any], template: ChatTemplate) -> Conversation:
    """Return a raw example as a conversation. A text in the field `system` becomes the first
    message, unless there is one or the template reads this field itself."""
    found = json.loads(example["text"])
    name, messages, fields = example["document"].decode(), found["messages"], found["fields"]
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
