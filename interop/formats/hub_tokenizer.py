"""Writes a tokenizer as transformers reads it, so that it gives a model the ids of our commands.

Our commands have tokens that are not in the tokenizer's file: the mask of a masked model, and the
separator before a conversation. Here the mask is part of tokenizer.json, and the separator of the
chat template. A prompt is not closed, as a labelled text is.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from configs.reading.inputs import ORIGINAL_TOKENIZER, TOKENIZER
from configs.schema.config import Config
from data.codecs.chat import TEMPLATE, ChatTokenizer
from data.codecs.gaps import GapCodec
from data.codecs.tokenizers import UNKNOWN, Tokenizer
from interop.chat_template import missing_opening
from interop.folder import CHAT_TEMPLATE, GENERATION, TOKENIZER_CONFIG

NO_IDS: dict[str, int | None] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
"""Fields of config.json for a model without special tokens: else those of a published one count."""

MASKS = ("[MASK]", "<mask>", "<|mask|>")
"""Texts of the mask: the first is taken that is no token already."""

QWEN2_WORDS = r"|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
"""A part of the pattern by which the tokenizer of Qwen2 splits texts, as JSON has it."""

PADDING = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>")
"""Usual texts of a token for padding."""


class HubTokenizer:
    """The tokenizer of a model, as transformers reads it.

    path: its file. config: the configuration of the run. max_length: the tokens of a text, at most.
    """

    def __init__(self, path: Path, config: Config, max_length: int):
        self._path, self._max_length = path, max_length
        self._output = config.task.model_output
        self._data: Any = config.data  # its fields depend on the source
        self._tokenizer = Tokenizer.load(path)
        self._chat: ChatTokenizer | None = None
        if self._data.source == "conversations":
            self._chat = ChatTokenizer(self._tokenizer, self._data.chat_template)

    def write(self, out: Path) -> Sequence[str]:
        """Write the files into the folder `out`. Return notes for the user."""
        text = self._backend.to_str(pretty=True)
        if tokenizers.Tokenizer.from_str(text).to_str() != _as_read(self._path):
            shutil.copyfile(self._path, out / ORIGINAL_TOKENIZER)
        (out / TOKENIZER).write_text(text, encoding="utf-8")
        _write_json(out / TOKENIZER_CONFIG, self._config())
        if self._writes_text:
            _write_json(out / GENERATION, self._generation())
        if self._chat is None:
            return ()
        template, notes = self._chat_template()
        (out / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
        return notes

    def notes_for(self, family: str) -> Sequence[str]:
        """Return notes for the user about the tokenizer of a model of this family."""
        if family != "qwen2" or QWEN2_WORDS in self._backend.to_str():
            return ()
        return (
            "AutoTokenizer of transformers 5 gives every qwen2 the class Qwen2Tokenizer, which "
            "splits texts otherwise than this tokenizer: load it with "
            "PreTrainedTokenizerFast.from_pretrained",
        )

    def ids(self) -> dict[str, int | None]:
        """Return the ids of special tokens for config.json. The id of padding is null without a
        token of its own, as its embedding would not be trained."""
        ids: dict[str, int | None] = NO_IDS | {"pad_token_id": self.padding}
        if self._writes_text:
            ids |= {"bos_token_id": self._bos, "eos_token_id": self._end}
        if self._mask is not None:
            ids["mask_token_id"] = self._tokenizer.vocabulary_size
        return ids

    @property
    def _writes_text(self) -> bool:
        return self._output in ("next_tokens", "target_tokens")

    @property
    def _end(self) -> int:
        """The id that ends a text."""
        return (self._chat or self._tokenizer).end_id

    @property
    def _bos(self) -> int:
        """The id that opens a text."""
        return int(self._tokenizer.document_opening[-1])

    @cached_property
    def padding(self) -> int | None:
        """The id of the token for padding; None without one."""
        special = self._tokenizer.special_tokens()
        return next((special[name] for name in PADDING if name in special), None)

    @cached_property
    def _mask(self) -> str | None:
        """The text of the mask; None for other models."""
        if self._output != "missing_tokens":
            return None
        vocabulary = self._tokenizer.vocabulary()
        return next(text for text in MASKS if text not in vocabulary)

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        """The tokenizer with the tokens that our commands put around a text, and with the mask."""
        backend = tokenizers.Tokenizer.from_str(self._tokenizer.backend.to_str())
        if self._output == "next_tokens" and len(self._tokenizer.closing):
            frame(backend, [self._text(number) for number in self._tokenizer.opening])
        if self._mask is not None:
            # A token of words has the space before it, so the mask takes its place.
            (before, _) = GapCodec(self._tokenizer).encode(["a ", " a"])
            mask = tokenizers.AddedToken(
                self._mask, special=True, normalized=False, lstrip=not before.keeps_space
            )
            backend.add_special_tokens([mask])
            assert backend.token_to_id(self._mask) == self._tokenizer.vocabulary_size
        return backend

    def _config(self) -> dict[str, Any]:
        """Return tokenizer_config.json."""
        tokenizer = self._tokenizer
        tokens: dict[str, str | None] = {"eos_token": self._text(self._end)}
        if self._writes_text:
            tokens["bos_token"] = self._text(self._bos)
        elif len(tokenizer.opening) and len(tokenizer.closing):
            tokens["cls_token"] = self._text(int(tokenizer.opening[0]))
            tokens["sep_token"] = self._text(int(tokenizer.closing[-1]))
        if tokenizer.unknown_id in tokenizer.special_tokens().values():
            tokens["unk_token"] = self._text(tokenizer.unknown_id)
        padding = self._end if self.padding is None else self.padding
        tokens |= {"pad_token": self._text(padding), "mask_token": self._mask}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **{name: token for name, token in tokens.items() if token is not None},
            "model_max_length": self._max_length,
            "model_input_names": ["input_ids", "attention_mask"],
            "padding_side": "left" if self._writes_text else "right",
            "clean_up_tokenization_spaces": False,
        }

    def _generation(self) -> dict[str, Any]:
        """Return generation_config.json."""
        padding = self._end if self.padding is None else self.padding
        ids = {"bos_token_id": self._bos, "eos_token_id": self._end, "pad_token_id": padding}
        return {**ids, "suppress_tokens": self._suppressed() or None}

    def _suppressed(self) -> list[int]:
        """Return the ids that generate.py never writes: those without a text."""
        written = {i for text, i in self._tokenizer.vocabulary().items() if text != UNKNOWN}
        return [i for i in range(self._tokenizer.vocabulary_size) if i not in written]

    def _chat_template(self) -> tuple[str, Sequence[str]]:
        """Return the template of conversations, and notes. It also writes the tokens that open a
        document, which our commands write before a rendered template."""
        assert self._chat is not None
        tokenizer, source = self._tokenizer, self._data.chat_template or TEMPLATE
        missing, notes = missing_opening(tokenizer, self._chat.encoder.template)
        bos = "".join(self._text(number) for number in tokenizer.opening)
        variables = {"bos_token": bos or tokenizer.separator, "eos_token": tokenizer.separator}
        given = self._config()
        differing = {name: text for name, text in variables.items() if given[name] != text}
        head = "".join(f"{{% set {name} = {_literal(text)} %}}" for name, text in differing.items())
        # An expression ends the head, because a line break after a tag would be lost.
        if head or missing:
            head += f"{{{{ {_literal(''.join(missing))} }}}}"
        return head + source, notes

    def _text(self, number: int | None) -> str:
        """Return the text of a token."""
        assert number is not None
        text = self._tokenizer.backend.id_to_token(int(number))
        assert text is not None
        return text


def frame(
    backend: tokenizers.Tokenizer, opening: Sequence[str] = (), closing: Sequence[str] = ()
) -> None:
    """Let `backend` put the tokens `opening` before every text and `closing` behind it, and nothing
    else around it."""
    written = json.loads(backend.to_str())["post_processor"] or {}
    parts = written.get("processors", [written])
    template = processors.TemplateProcessing(
        single=[*opening, "$A", *closing],
        pair=[*opening, "$A", "$B:1", *closing],
        special_tokens=[
            (token, backend.token_to_id(token)) for token in dict.fromkeys([*opening, *closing])
        ],
    )
    byte_level = [part for part in parts if part.get("type") == "ByteLevel"]
    if not byte_level:
        backend.post_processor = template
        return
    trim = byte_level[0]["trim_offsets"]
    backend.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=trim), template]
    )


def _as_read(path: Path) -> str:
    return tokenizers.Tokenizer.from_file(str(path)).to_str()


def _literal(text: str) -> str:
    """Return a text as a literal of Jinja."""
    return json.dumps(text, ensure_ascii=False)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    written = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
