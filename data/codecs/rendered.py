"""Encodes rendered conversations as one text each, as Transformers encodes them.

A tokenizer may write a text's beginning in its own way, and a token may cross the end of a message:
so the parts of a conversation can't be encoded one by one.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import processors

from data.codecs.tokenizers import Tokenizer


@dataclass(frozen=True)
class Piece:
    """A part of a rendered conversation: plain text or a special token.

    text: the text, or the name of the special token.
    is_learnt: whether its tokens count in the loss.
    """

    text: str
    is_special: bool
    is_learnt: bool


@dataclass(frozen=True)
class PieceTokens:
    """The tokens of a rendered conversation.

    ids: int32 [tokens].
    starts: the index of each token's first character in the text, int64 [tokens].
    specials: the index of the token of each special piece, by the index of the piece.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    specials: dict[int, int]

    def learnt(self, pieces: Sequence[Piece]) -> NDArray[np.bool_]:
        """Return a mask of the tokens whose first character is in a learned piece, bool [tokens].

        pieces: those that were encoded.
        """
        flags = np.array([piece.is_learnt for piece in pieces], bool)
        stops = np.cumsum([len(piece.text) for piece in pieces], dtype=np.int64)
        found = np.searchsorted(stops, self.starts, side="right")
        learnt = flags[np.minimum(found, len(pieces) - 1)] if pieces else np.zeros(0, bool)
        for number, place in self.specials.items():
            learnt[place] = flags[number]
        return learnt


class PieceEncoder:
    """Encodes pieces of text and special tokens, joined, with `tokenizer`.

    A text may contain the name of a special token; it is encoded as plain text.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._names = tokenizer, tokenizer.special_tokens()
        self._is_special = np.zeros(tokenizer.vocabulary_size, bool)
        self._is_special[[*self._names.values()]] = True
        self._whole = _copy(tokenizer.backend.to_str())
        self._whole.encode_special_tokens = False

    def encode(self, conversations: Sequence[Sequence[Piece]]) -> list[PieceTokens]:
        """Encode the pieces of each conversation, in parallel on all cores."""
        texts = ["".join(piece.text for piece in pieces) for pieces in conversations]
        encodings = self._whole.encode_batch(texts, add_special_tokens=False)
        return [
            self._checked(text, pieces, encoding)
            for text, pieces, encoding in zip(texts, conversations, encodings, strict=True)
        ]

    def _checked(self, text: str, pieces: Sequence[Piece], encoding: Any) -> PieceTokens:
        """Return the tokens of `encoding` if its special tokens are those of `pieces`. Otherwise a
        message spells one, so encode the texts between the special tokens."""
        ids = np.array(encoding.ids, np.int32)
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        unknown = self._tokenizer.unknown_id
        places = [
            place
            for place in np.flatnonzero(self._is_special[ids]).tolist()
            if ids[place] != unknown or text[slice(*spans[place])].strip() in self._names
        ]
        stops = itertools.accumulate(len(piece.text) for piece in pieces)
        numbers = [
            (number, stop - 1) for number, stop in enumerate(stops) if pieces[number].is_special
        ]
        is_as_written = len(places) == len(numbers) and all(
            ids[place] == self._names[pieces[number].text] and spans[place][0] <= last
            and last < spans[place][1]
            for place, (number, last) in zip(places, numbers, strict=True)
        )  # fmt: skip
        if not is_as_written:
            return self._between(pieces)
        specials = {number: place for place, (number, _) in zip(places, numbers, strict=True)}
        return PieceTokens(ids, spans[:, 0], specials)

    def _between(self, pieces: Sequence[Piece]) -> PieceTokens:
        ids: list[int] = []
        starts: list[int] = []
        specials, start = {}, 0
        groups = itertools.groupby(enumerate(pieces), key=lambda pair: pair[1].is_special)
        for is_special, group in groups:
            if is_special:
                for number, piece in group:
                    specials[number] = len(ids)
                    ids.append(self._names[piece.text])
                    starts.append(start)
                    start += len(piece.text)
                continue
            text = "".join(piece.text for _, piece in group)
            backend = self._later if start else self._first
            encoding = backend.encode(text, add_special_tokens=False)
            ids += encoding.ids
            starts += [start + first for first, _ in encoding.offsets]
            start += len(text)
        return PieceTokens(np.array(ids, np.int32), np.array(starts, np.int64), specials)

    @cached_property
    def _first(self) -> tokenizers.Tokenizer:
        """The tokenizer for a text at the beginning."""
        return _copy(self._tokenizer.backend.to_str())

    @cached_property
    def _later(self) -> tokenizers.Tokenizer:
        """The tokenizer for a text behind a special token, where some put no space."""
        described = json.loads(self._tokenizer.backend.to_str())
        of_words = json.dumps(described["pre_tokenizer"])
        of_later = of_words.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
        if of_later == of_words:
            return self._first
        return _copy(json.dumps(described | {"pre_tokenizer": json.loads(of_later)}))


def _copy(described: str) -> tokenizers.Tokenizer:
    """Return a tokenizer that tells which characters a token stands for: a post-processor may take
    white space away."""
    backend = tokenizers.Tokenizer.from_str(described)
    backend.post_processor = processors.Sequence([])
    backend.encode_special_tokens = True
    return backend
