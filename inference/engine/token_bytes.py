"""The bytes that each token of a vocabulary writes.

A text can be constrained token by token only if it is the concatenation of its tokens' bytes. This
holds for byte-level vocabularies, vocabularies with byte tokens (`<0x0A>`) and vocabularies of
characters. It does not hold where decoding puts white space between words.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from data.codecs.tokenizers import Tokenizer, signs_of_bytes

_MARK = 0xFF
"""A byte that never occurs in UTF-8. llguidance marks the names of special tokens with it."""


_BYTES = {sign: byte for byte, sign in enumerate(signs_of_bytes())}


class TokenBytes:
    """Maps the tokens of `tokenizer` to bytes, and texts to tokens.

    pieces: the bytes of each token, by id. They are empty for special tokens, for the unknown
        token, for ids without a token, and for tokens with the byte 0xFF, which UTF-8 never has.

    Raises ValueError if texts are not the concatenation of their tokens' bytes. The message
    continues the words "a vocabulary".
    """

    def __init__(self, tokenizer: Tokenizer):
        settings = json.loads(tokenizer.backend.to_str())
        if settings["model"]["type"] == "WordLevel":
            raise ValueError("of whole words can't spell every text")
        steps = _steps(settings["decoder"])
        self._backend = tokenizer.backend
        others = {*tokenizer.special_tokens().values(), tokenizer.unknown_id}
        self.pieces = [b""] * tokenizer.vocabulary_size
        for token, number in tokenizer.vocabulary().items():
            piece = b"" if number in others else _bytes_of(token, steps)
            self.pieces[number] = b"" if _MARK in piece else piece
        self._ids = {piece: number for number, piece in enumerate(self.pieces) if piece}
        self._longest = max(map(len, self._ids), default=0)

    def encode(self, text: str) -> list[int]:
        """Return tokens whose joined bytes are `text`; [] if the vocabulary can't write it.

        These are the tokens that the tokenizer returns. If they spell another text, because the
        normalizer changes it, the longest matching token is taken at each place, from the left.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        pieces = [self.pieces[number] for number in ids]
        written, wanted = b"".join(pieces), text.encode()
        if written == wanted:
            return ids
        if written == b" " + wanted:  # SentencePiece begins every text with a space
            if pieces[0] == b" ":
                return ids[1:]
            if pieces[0][1:] in self._ids:
                return [self._ids[pieces[0][1:]], *ids[1:]]
        return self._longest_matches(wanted)

    def unwritable(self, text: str) -> list[str]:
        """Return the characters of `text` that the vocabulary can't write, sorted."""
        return sorted(char for char in set(text) if not self._longest_matches(char.encode()))

    def characters(self) -> str | None:
        """Return the characters that the vocabulary can write, sorted; None if it can write all,
        because it has a token for each byte of UTF-8."""
        if all(bytes([byte]) in self._ids for byte in range(0xF5) if byte not in (0xC0, 0xC1)):
            return None
        texts = (piece.decode(errors="ignore") for piece in self._ids)
        found = set("".join(texts))
        return "".join(sorted(found.difference(self.unwritable("".join(found)))))

    def _longest_matches(self, wanted: bytes) -> list[int]:
        ids, start = [], 0
        while start < len(wanted):
            ends = range(min(len(wanted), start + self._longest), start, -1)
            end = next((end for end in ends if wanted[start:end] in self._ids), None)
            if end is None:
                return []
            ids.append(self._ids[wanted[start:end]])
            start = end
        return ids


def _steps(decoder: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    """Return the steps of a decoder of Hugging Face's tokenizers.

    Raises ValueError if the decoded text is not the concatenation of the tokens' bytes. A space
    removed at the beginning of the text is allowed.
    """
    if decoder is None:
        raise ValueError("without a decoder puts spaces between its tokens")
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    is_fused = False
    for step in steps:
        kind = step["type"]
        is_fused |= kind == "Fuse"
        known = kind in ("ByteLevel", "ByteFallback", "Fuse", "Metaspace")
        known |= kind == "Replace" and "String" in step["pattern"]
        known |= kind == "Strip" and is_fused and not step["stop"]
        if not known:
            raise ValueError(f"with a decoder {kind} writes more, or less, than its tokens")
    return steps


def _bytes_of(token: str, steps: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the bytes that the steps of a decoder make of `token`."""
    for step in steps:
        kind = step["type"]
        if kind == "ByteLevel":
            try:
                return bytes(map(_BYTES.__getitem__, token))
            except KeyError:  # a token that was added as plain text
                return token.encode()
        if kind == "ByteFallback" and (byte := re.fullmatch("<0x([0-9A-Fa-f]{2})>", token)):
            return bytes.fromhex(byte[1])
        if kind == "Replace":
            token = token.replace(step["pattern"]["String"], step["content"])
        elif kind == "Metaspace":
            token = token.replace(step["replacement"], " ")
    return token.encode()
