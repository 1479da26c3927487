"""Writes the tokenizer of a model of text pairs, and how transformers generates with it.

Our commands put the separator behind a source, open the target with it, and end the target at it.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from configs.data_spec import DataSpec
from configs.schema.config import Config
from interop.formats.hub_tokenizer import HubTokenizer, frame

UNUSED_BYTE = "\u00ff"
"""The token of the byte 0xFF in byte-level vocabularies. No text in UTF-8 has it."""


class HubPairTokenizer(HubTokenizer):
    """The tokenizer of a model of text pairs, as transformers reads it."""

    def __init__(self, path: Path, config: Config, data_spec: DataSpec):
        super().__init__(path, config, data_spec.require("max_source_length"))
        self._task: Any = config.task
        self._max_target_length = data_spec.require("max_length")

    def ids(self) -> dict[str, int | None]:
        """Return the ids of special tokens for config.json.

        Encoder-decoders of transformers need an id of padding. Some hide it from attention, and
        none trains its embedding. Without a token for padding, it is one that no target has.
        """
        own = {"pad_token_id": self._unused if self.padding is None else self.padding}
        return {**super().ids(), **own, "decoder_start_token_id": self._bos}

    @property
    def _end(self) -> int:
        return self._tokenizer.separator_id

    @property
    def _bos(self) -> int:
        return self._tokenizer.separator_id

    @property
    def _unused(self) -> int:
        """An id that no target has; the separator if there is none."""
        number = self._tokenizer.vocabulary().get(UNUSED_BYTE)
        if number is not None and self._tokenizer.decode([number]) == "\ufffd":
            return number
        unknown = self._tokenizer.unknown_id
        return self._end if unknown is None else unknown

    @cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        """The tokenizer with the separator behind a source."""
        backend = tokenizers.Tokenizer.from_str(self._tokenizer.backend.to_str())
        frame(backend, closing=[self._text(self._end)])
        return backend

    def _config(self) -> dict[str, Any]:
        # CTranslate2 reads no tokenizer without an unknown token.
        unknown = {"unk_token": self._text(self._end)}
        return {**unknown, **super()._config(), "padding_side": "right"}

    def _generation(self) -> dict[str, Any]:
        """Return generation_config.json. The length of an answer includes the token that opens it.

        The length penalty of transformers divides by length ** penalty, and ours by
        ((5 + length) / 6) ** penalty.
        """
        task = self._task
        search = {"num_beams": task.beam_size}
        if task.beam_size > 1:
            search |= {"early_stopping": True, "length_penalty": task.length_penalty}
        return {
            **super()._generation(),
            "decoder_start_token_id": self._bos,
            "forced_eos_token_id": self._end,
            "max_length": self._max_target_length + 1,
            "do_sample": False,
            **search,
        }
