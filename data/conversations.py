"""Prepares conversations as windows of tokens; only the assistant's tokens count in the loss.

Each conversation starts with the separator. Conversations are packed into windows by best fit
decreasing (see `data.best_fit`). A conversation longer than a window is cut at its end; it is left
out if no assistant's token remains.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data import best_fit
from data.cache import digest
from data.cleaning import Pieces
from data.codecs.chat import ChatEncoder, ChatTemplate, Encoded
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, Split
from data.progress import Progress, read_blocks
from data.records import write_records
from data.sources.source import RawExamples, RawSplits
from data.text import PIECES_AT_ONCE, TOKENIZER, make_tokenizer, tokenizer_key

VERSION = 2
"""Part of the cache key. Increment it when this file or `data.codecs.chat` makes different examples
or counts."""


class ConversationCodec(best_fit.PackedCodec):
    """Stores windows of conversations. The field `learnt` marks the assistant's tokens."""

    marks_learnt = True


@dataclass
class ConversationCounts:
    """Counts for a split of conversations.

    conversations: number of all conversations.
    cut: number of conversations cut at the end of a window.
    left_out: number of conversations left out.
    unknown: number of conversations with an unknown token.
    targets: number of the assistant's tokens, which count in the loss.
    unknown_targets: number of such targets that are the unknown token.
    positions: number of targets of all roles.
    bytes: UTF-8 bytes of the assistant's text.
    """

    conversations: int = 0
    cut: int = 0
    left_out: int = 0
    unknown: int = 0
    targets: int = 0
    unknown_targets: int = 0
    positions: int = 0
    bytes: int = 0


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
            if not count:
                raise UsageError(
                    f"no conversation of {split} has an answer within data.sequence_length="
                    f"{codec.length}: make it longer"
                )
            metadata[split] = {"examples": count, **vars(counts)}
        decided = {"records": hashes, "vocabulary": tokenizer.vocabulary()}
        return {"fingerprint": digest(decided), "splits": metadata}

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
                conversations=total - numbers["left_out"],
                padding=1 - numbers["positions"] / (examples * codec.length),
                cut=numbers["cut"],
                unknown=numbers["unknown_targets"],
            )
            too_long = f"longer than data.sequence_length={codec.length}"
            for count, what in (
                (numbers["cut"], f"are {too_long} and cut"),
                (numbers["left_out"], f"are {too_long} before any answer, and left out"),
                (numbers["unknown"], "have characters that the tokenizer does not know"),
            ):
                if count:
                    warnings.append(f"{count:,} of {total:,} conversations of {name} {what}")
        spec = DataSpec(vocabulary_size=tokenizer.vocabulary_size, max_length=codec.length)
        return Dataset(metadata["fingerprint"], splits, spec, tokenizer, warnings=tuple(warnings))

    def _codec(self, tokenizer: Tokenizer) -> ConversationCodec:
        return ConversationCodec(self.settings.sequence_length, tokenizer.vocabulary_size)

    def _template(self) -> ChatTemplate:
        try:
            return ChatTemplate(self.settings.chat_template)
        except ValueError as error:
            raise UsageError(f"data.chat_template: {error}") from None

    def _check(self, records: RawExamples) -> None:
        """Raise UsageError, with the conversation's name, if the template refuses one."""
        if self.settings.chat_template is None:
            return
        template = self._template()
        for block in read_blocks(records, PIECES_AT_ONCE):
            for one in block:
                try:
                    template.conversation(json.loads(one["text"]))
                except ValueError as error:
                    raise UsageError(
                        f"data.chat_template: {one['document'].decode()}: {error}"
                    ) from None

    def _text(self) -> Callable[[str], str]:
        """Return a function that maps a conversation (JSON) to text for training a tokenizer."""
        template = self._template()

        def text(content: str) -> str:
            pieces = template.conversation(json.loads(content))
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
        for one in self._encoded(stage, records, tokenizer, progress):
            counts.conversations += 1
            counts.unknown += bool(np.any(one.ids == unknown))
            ids, learnt = one.ids[: length + 1], one.learnt[1 : length + 1]
            if not learnt.any():
                counts.left_out += 1
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
        self, stage: str, records: RawExamples, tokenizer: Tokenizer, progress: Progress
    ) -> Iterator[Encoded]:
        encoder = ChatEncoder(tokenizer, self.settings.chat_template)
        for block in read_blocks(records, PIECES_AT_ONCE, progress, stage, "conversations"):
            try:
                yield from encoder.encode_many([json.loads(one["text"]) for one in block])
            except ValueError as error:  # a special token that `_check` does not know
                raise UsageError(f"data.chat_template: {error}") from None
