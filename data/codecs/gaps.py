"""Encodes texts with gaps, and fills them in. Each gap stands for one missing token."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from data.codecs.tokenizers import Tokenizer

FILLERS = 256
"""Maximum number of tokens that `GapCodec` tries in a gap."""

_CONTEXT = 8
"""Number of tokens before a gap that may affect how the token in the gap is decoded."""


@dataclass(frozen=True)
class Piece:
    """A part of a text with gaps: from one gap (or the start) to the next gap (or the end).

    ids: the token ids of the part, int32 [tokens].
    keeps_space: False if the space at the end of `text` belongs to the missing token after it;
        `ids` then do not contain this space.
    """

    text: str
    ids: NDArray[np.int32]
    keeps_space: bool = True


def joined_ids(pieces: Sequence[Piece], tokens: Sequence[int]) -> list[int]:
    """Return the ids of a whole text: those of `pieces`, with one of `tokens` in each gap."""
    ids = pieces[0].ids.tolist()
    for token, piece in zip(tokens, pieces[1:], strict=True):
        ids += [token, *piece.ids.tolist()]
    return ids


class GapCodec:
    """Encodes texts with gaps, and fills in the gaps.

    The text around a gap gets the ids that it would have in a text without gaps. They depend on the
    tokenizer: the space before a gap may be part of the missing token, a separate token or no
    token, and the rest of a word may be split into different tokens. So the class finds the ids by
    trial: it puts tokens of the vocabulary into the gaps and encodes the result.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
        self._backend.post_processor = None  # It may exclude spaces from the offsets of tokens.
        self._backend.encode_special_tokens = True
        self._fillers = self._find_fillers()
        word = next(filter(str.isalpha, self._fillers), self._fillers[0])
        self._neutral = tokenizer.encode(word).tolist()
        spans = self._backend.encode(f"{word} {word}", add_special_tokens=False).offsets
        self.drops_spaces = not any(start <= len(word) < stop for start, stop in spans)
        """True if no token contains the spaces between words, as in BERT's WordPiece."""

    def encode(self, texts: Sequence[str]) -> list[Piece]:
        """Return a `Piece` for each of `texts`, the parts of one text between its gaps."""
        last = len(texts) - 1
        return [
            self._encode_piece(text, after_gap=number > 0, before_gap=number < last)
            for number, text in enumerate(texts)
        ]

    def fill(self, pieces: Sequence[Piece], tokens: Sequence[int]) -> str:
        """Return the whole text, with one of `tokens` in each gap.

        Tokens in adjacent gaps are decoded together, since they may be bytes of one character.
        """
        text, first = pieces[0].text, 0
        for gap, after in enumerate(pieces[1:]):
            if after.text or gap == len(tokens) - 1:
                before = joined_ids(pieces[: first + 1], tokens[:first])
                filling = self._written(tokens[first : gap + 1], pieces[first], before)
                if filling.startswith(" ") and not pieces[first].keeps_space:
                    text = text[:-1]
                text += filling + after.text
                first = gap + 1
        return text

    def name_token(
        self, token: int, gap: int, pieces: Sequence[Piece], tokens: Sequence[int]
    ) -> str:
        """Return the text of `token` in gap number `gap`, from 0.

        tokens: the tokens in the gaps before this gap; more are ignored. If the tokenizer drops
        spaces, the result includes the tokenizer's prefixes, such as WordPiece's ##.
        """
        if self.drops_spaces:
            return self._tokenizer.decode([token])
        before = joined_ids(pieces[: gap + 1], tokens[:gap])
        return self._written([token], pieces[gap], before)

    def _written(self, ids: Sequence[int], piece: Piece, before: Sequence[int]) -> str:
        """Return the text of `ids` after `piece`, given all ids that come `before` them."""
        context = [*before[-_CONTEXT:]]
        if self.drops_spaces or not (context or piece.keeps_space):
            context = self._neutral
        text = self._tokenizer.decode([*context, *ids])[len(self._tokenizer.decode(context)) :]
        # If the tokenizer drops spaces, its decoder adds one here. The text has its own spaces.
        return text.removeprefix(" ") if self.drops_spaces else text

    def _find_fillers(self) -> list[str]:
        """Return the texts of tokens sampled evenly from the vocabulary."""
        special = set(self._tokenizer.special_tokens().values())
        ids = [one for one in sorted(self._tokenizer.vocabulary().values()) if one not in special]
        places = np.linspace(0, len(ids) - 1, min(FILLERS, len(ids))).astype(int)
        texts = (self._tokenizer.decode([ids[place]]).strip() for place in places)
        return [*dict.fromkeys(text for text in texts if text and "\ufffd" not in text)] or ["a"]

    def _like(self, neighbour: str, side: int) -> list[str]:
        """Return the fillers that have a letter (or digit) at index `side` if `neighbour` is one.

        side: 0 for the first character, -1 for the last.

        Return all fillers if `neighbour` is neither a letter nor a digit, or if no filler matches.
        """
        for is_of_class in (str.isalpha, str.isdigit):
            if is_of_class(neighbour):
                alike = [one for one in self._fillers if is_of_class(one[side])]
                return alike or self._fillers
        return self._fillers

    def _encode_piece(self, text: str, *, after_gap: bool, before_gap: bool) -> Piece:
        if not text:
            return Piece(text, np.empty(0, np.int32))
        if not (after_gap or before_gap):
            return Piece(text, self._tokenizer.encode(text))
        # At a gap within a word or a number, fill in more letters or digits.
        before = [f" {one}" for one in self._like(text[0], -1)] if after_gap else [""]
        behind = self._like(text[-1], 0) if before_gap else [""]
        pairs = range(max(len(before), len(behind)))
        lefts = [before[number % len(before)] for number in pairs]
        rights = [behind[(number + len(behind) // 2) % len(behind)] for number in pairs]
        wholes = [f"{left}{text}{right}" for left, right in zip(lefts, rights, strict=True)]
        found: Counter[tuple[bool, tuple[int, ...]]] = Counter()
        encodings = self._backend.encode_batch(wholes, add_special_tokens=False)
        for left, encoding in zip(lefts, encodings, strict=True):
            found.update(_ids_between(encoding, len(left), len(left) + len(text), text[-1] == " "))
        if not found:  # No token of this vocabulary fits there.
            return Piece(text, self._tokenizer.encode(text))
        # Prefer encodings in which the missing token contains the space, however rare they are.
        keeps_space, ids = max(found, key=lambda one: (not one[0], found[one]))
        return Piece(text, np.array(ids, np.int32), keeps_space)


def _ids_between(
    encoding: tokenizers.Encoding, start: int, stop: int, may_end_earlier: bool
) -> Iterable[tuple[bool, tuple[int, ...]]]:
    """Yield (keeps_last, ids) once: the ids of the characters of a text in [start, stop).

    Yield nothing if a token crosses `start` or `stop`. With `may_end_earlier`, a token that crosses
    `stop` is left out if it begins at the last character; keeps_last is then False.
    """
    keeps_last, ids = True, []
    for token, (begins, ends) in zip(encoding.ids, encoding.offsets, strict=True):
        if begins < start < ends:
            return
        if begins < stop < ends:
            if not may_end_earlier or begins < stop - 1:
                return
            keeps_last = False
        elif start <= begins and ends <= stop:
            ids.append(token)
    yield keeps_last, tuple(ids)
