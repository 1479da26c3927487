"""Tokenizers: convert text to token ids and back. Each is stored as a Hugging Face tokenizer.json.

Character and byte tokenizers are stored as byte-pair encodings without merges. So all kinds share
one file format and one code path, and other programs that read tokenizer.json get the same ids. All
kinds except characters and words work on bytes, so that decoding restores any text exactly.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from configs.files import write_durably

SEPARATOR = "<|endoftext|>"
"""The token that opens every document."""

UNKNOWN = "<|unknown|>"
"""The token for each character or word that is not in the vocabulary."""

_JOINED = "\u203f"
"""Prefix of WordPiece tokens inside a word. Unlike "#", this character never stands for a byte."""

_LONGEST_WORD = 100  # bytes; WordPiece takes time quadratic in the length of a word

_BATCH_TEXTS = 512  # encoded at once; fewer would be slower
_BATCH_CHARACTERS = 2**23  # of all texts together, since encoding needs a hundred bytes for each

_JOINS = (
    "merges", "fuse_unk", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix"
)  # fmt: skip
"""Fields of a byte-pair encoding that make a token of several characters, or change some."""

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = {_LLAMA_3, _LLAMA_3.replace("{1,3}", "")}  # of GPT-4 and Llama 3; of Qwen 2

_NO_SPACE = "\x1c\x1d\x1e\x1f"  # white space in Python, but not in regular expressions


@dataclass(frozen=True)
class SpecialTokens:
    """What the special tokens of another project's tokenizer are for.

    ends: the ids of which each ends a text; at least one, the most usual first.
    bos, eos: the tokens that its chat template knows as `bos_token` and `eos_token`.
    """

    ends: tuple[int, ...]
    bos: str | None = None
    eos: str | None = None


class Tokenizer:
    """Encodes text as token ids, and decodes them.

    If a text contains the name of a special token, it is encoded as plain text, so that a document
    can't fake its end.

    `opening`, `closing`: the ids that tokenizer.json's post-processor puts before and after every
        text, such as BERT's [CLS] and [SEP]; int32 [tokens], may be empty.
    `separator`: the token that begins a document. It is the opening token if there is exactly one
        and `closing` is not empty; otherwise it is the first end of `special`, or `SEPARATOR`,
        which is added to the vocabulary if missing.
    `end_id`: the token that ends generated text. `other_end_ids`: more that do.

    `special`: given for the tokenizer of a model that another project trained. Nothing is then
        added to its vocabulary.

    `joins_prompt`: whether the prompt and the generated text are decoded as one text.
    """

    joins_prompt = True

    def __init__(self, backend: tokenizers.Tokenizer, special: SpecialTokens | None = None):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self.backend, self.special = backend, special
        self.opening, self.closing = _framing(backend)
        self.separator = SEPARATOR
        if len(self.opening) == 1 and len(self.closing):
            opening = backend.id_to_token(int(self.opening[0]))
            assert opening is not None
            self.separator = opening
        elif special is not None:
            self.separator = str(backend.id_to_token(special.ends[0]))
        elif backend.token_to_id(SEPARATOR) is None:
            backend.add_special_tokens([SEPARATOR])
        vocabulary = backend.get_vocab()
        self.separator_id = vocabulary[self.separator]
        self.end_id = int(self.closing[0]) if len(self.closing) else self.separator_id
        ends = () if special is None else special.ends
        self.other_end_ids = tuple(one for one in ends if one != self.end_id)
        self.vocabulary_size = max(vocabulary.values()) + 1

    @cached_property
    def unknown_id(self) -> int | None:
        """The id of the unknown token; None if there is none.

        Also None if the unknown token is the separator. Byte-level WordPiece names it as unknown
        token, but can encode every text without it.
        """
        model = json.loads(self.backend.to_str())["model"]
        unknown = model.get("unk_id")  # unigram models give an id, others a token
        if model.get("unk_token") is not None:
            unknown = self.backend.token_to_id(model["unk_token"])
        return None if unknown == self.separator_id else unknown

    @property
    def document_opening(self) -> NDArray[np.int32]:
        """The ids that open a document: the separator, then the tokens that open every text.

        With `special`, those that open every text alone, or its bos token where none does.
        """
        if self.separator_id in self.opening[:1] or (self.special and len(self.opening)):
            return self.opening
        if self.special is not None and self.special.bos is not None:
            return np.array([self.backend.token_to_id(self.special.bos)], np.int32)
        return np.append(np.int32(self.separator_id), self.opening)

    @property
    def conversation_opening(self) -> NDArray[np.int32]:
        """The ids that open a conversation, unless its template writes them. With `special`, the
        template writes all of them."""
        return self.document_opening if self.special is None else self.opening[:0]

    def framed(self, ids: NDArray[np.int32], longest: int | None = None) -> NDArray[np.int32]:
        """Return `ids` between `opening` and `closing`. longest: the maximum length of the result;
        `ids` are cut to fit."""
        room = None
        if longest is not None:
            room = max(longest - len(self.opening) - len(self.closing), 0)
        return np.concatenate([self.opening, ids[:room], self.closing])

    @classmethod
    def characters(cls, texts: Iterable[str]) -> "Tokenizer":
        """Build a tokenizer with a token for each character of `texts`, ordered by code point."""
        found: set[str] = set()
        for text in texts:
            found.update(text)
        tokens = [SEPARATOR, UNKNOWN, *sorted(found)]
        vocabulary = {token: number for number, token in enumerate(tokens)}
        model = models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN, fuse_unk=False)
        backend = tokenizers.Tokenizer(model)
        backend.decoder = decoders.Fuse()
        backend.add_special_tokens([SEPARATOR, UNKNOWN])
        return cls(backend)

    @classmethod
    def bytes(cls) -> "Tokenizer":
        """Build a tokenizer with a token for each byte. The token's id is the byte's value; the
        separator's id is 256."""
        vocabulary = {sign: byte for byte, sign in enumerate(signs_of_bytes())}
        backend = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return cls(backend)

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocabulary_size: int) -> "Tokenizer":
        """Train byte-level byte-pair encoding of at most `vocabulary_size` tokens on `texts`.

        The separator has id 0; then come the 256 bytes, then the merges in the order learned. There
        are fewer tokens if the texts contain no more pairs. Training is deterministic.
        """
        backend = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=vocabulary_size, **_byte_trainer())
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def train_unigram(cls, texts: Iterable[str], vocabulary_size: int) -> "Tokenizer":
        """Train a unigram language model of byte sequences (Kudo, 2018) on `texts`.

        It has at most `vocabulary_size` tokens. The separator has id 0; then come the pieces,
        including every byte, by decreasing probability. Training is deterministic: scores are
        rounded, because the library sums them in the order of a hash table.
        """
        backend = _byte_level(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=vocabulary_size, **_byte_trainer())
        backend.train_from_iterator(texts, trainer)
        scores = dict(json.loads(backend.to_str())["model"]["vocab"])
        del scores[SEPARATOR]
        # The library scores unseen bytes slightly above the least score, in random order.
        least = min(scores.values())
        for sign in signs_of_bytes():
            scores[sign] = least if scores[sign] < least + 0.03 else scores[sign]
        pieces = [(piece, round(score, 4)) for piece, score in scores.items()]
        pieces.sort(key=lambda pair: (-pair[1], pair[0]))
        backend.model = models.Unigram([(SEPARATOR, 0.0), *pieces])
        return cls(backend)

    @classmethod
    def train_wordpiece(cls, texts: Iterable[str], vocabulary_size: int) -> "Tokenizer":
        """Train byte-level WordPiece on `texts`; it encodes by greedy longest match.

        It has at most `vocabulary_size` tokens. The separator has id 0; each byte has one token for
        the beginning of a word and one for inside. Text is split into words as in GPT-2's byte-pair
        encoding; a word includes the white space before it.
        """
        signs = signs_of_bytes()
        inside = [f"{_JOINED}{sign}" for sign in signs]
        words = pre_tokenizers.Sequence(
            [
                pre_tokenizers.ByteLevel(add_prefix_space=False),
                pre_tokenizers.Split(Regex(f".{{1,{_LONGEST_WORD}}}"), "isolated"),
            ]
        )
        learner = tokenizers.Tokenizer(models.WordPiece())
        learner.pre_tokenizer = words
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary_size,
            special_tokens=[SEPARATOR, *inside],  # otherwise their order is random
            initial_alphabet=signs,
            continuing_subword_prefix=_JOINED,
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        backend = tokenizers.Tokenizer(
            models.WordPiece(
                learner.get_vocab(), unk_token=SEPARATOR, continuing_subword_prefix=_JOINED
            )
        )
        backend.pre_tokenizer = words
        backend.decoder = decoders.Sequence([decoders.Replace(_JOINED, ""), decoders.ByteLevel()])
        return cls(backend)

    @classmethod
    def train_words(cls, texts: Iterable[str], vocabulary_size: int) -> "Tokenizer":
        """Build a tokenizer of the `vocabulary_size` - 2 most frequent words of `texts`.

        Text is split into words as in GPT-2's byte-pair encoding. A word includes the white space
        before it, so that decoding restores a text of known words exactly. The separator has id 0,
        the unknown word id 1; then come the words by decreasing frequency.
        """
        backend = _byte_level(models.WordLevel(unk_token=UNKNOWN))
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocabulary_size,
            special_tokens=[SEPARATOR, UNKNOWN],
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path, special: SpecialTokens | None = None) -> "Tokenizer":
        """Load a tokenizer.json, and add a separator if it has none and `special` is not given.

        Raises ValueError if the file is not a readable tokenizer.json.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
            return cls(tokenizers.Tokenizer.from_str(text), special)
        except Exception as error:  # the library raises only this type
            raise ValueError(f"{path} is no tokenizer.json: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json atomically and durably."""
        write_durably(Path(path), self.backend.to_str(pretty=True))

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token, by its string."""
        return self.backend.get_vocab()

    def special_tokens(self) -> dict[str, int]:
        """Return the id of each special token, by its string."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of `text` without `opening` and `closing`, int32 [tokens]."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Iterable[str]) -> list[NDArray[np.int32]]:
        """Encode `texts` in parallel on all cores, as `encode` does."""
        return [*self.encode_each(texts)]

    def encode_each(self, texts: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """Yield what `encode_many` returns. Texts are read and encoded in batches, so that memory
        is bounded by `_BATCH_CHARACTERS` and the longest text."""
        batch, size = list[str](), 0
        for text in texts:
            batch.append(text)
            size += len(text)
            if size >= _BATCH_CHARACTERS or len(batch) == _BATCH_TEXTS:
                yield from self._encode(batch)
                batch, size = [], 0
        yield from self._encode(batch)

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def divides(self, before: str, after: str) -> bool:
        """Return whether a text can be encoded in two parts: up to the end of `before`, and from
        `after` on.

        True if it is certain that both parts have the ids of the whole. Where characters or bytes
        have a token each, tokens end anywhere. Where GPT-2's or Llama 3's regular expression finds
        the words, a word ends before white space, or before a space. Any other tokenizer may put a
        space before each part, or join what the cut divides.
        """
        if self._divisions in ("anywhere", "nowhere"):
            return self._divisions == "anywhere"
        ends_before = after.startswith(" ") or (
            self._divisions == "white space" and after[:1].isspace() and after[0] not in _NO_SPACE
        )
        return ends_before and before != "" and not before[-1].isspace()

    @cached_property
    def _divisions(self) -> Literal["anywhere", "white space", "spaces", "nowhere"]:
        """Where texts can be divided: before which characters, if those come after a word."""
        state = json.loads(self.backend.to_str())
        normalizer, splitter = state["normalizer"], state["pre_tokenizer"]
        steps = [] if splitter is None else splitter.get("pretokenizers", [splitter])
        added = [token for token in state["added_tokens"] if not token["special"]]
        never_joins = not (added or normalizer) and not any(map(state["model"].get, _JOINS))
        keeps_words = (normalizer is None or normalizer["type"] == "NFC") and not any(
            token["lstrip"] or token["rstrip"] or token["content"].split() != [token["content"]]
            for token in added
        )
        match steps:
            case [] | [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}]:
                return "anywhere" if state["model"]["type"] == "BPE" and never_joins else "nowhere"
            case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}, *others]:
                only_split = all(step["type"] == "Split" for step in others)
                return "white space" if keeps_words and only_split else "nowhere"
            case [
                {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated",
                 "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ]:  # fmt: skip
                return "spaces" if keeps_words and regex in _WORDS else "nowhere"
        return "nowhere"

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`, including special tokens; invalid UTF-8 becomes U+FFFD."""
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=False)

    def __reduce__(self):
        return from_json, (self.backend.to_str(), self.special)


class StreamDecoder:
    """Decodes ids as they arrive, without returning half a character.

    The joined results of all `push` calls and of `flush` equal `Tokenizer.decode` of all ids.

    after: ids that come before the new ones; their text is not part of the results.
    """

    _CONTEXT = 8  # ids kept at least, since the text of new ids may depend on those before
    _BYTES = 4  # most bytes of a character: after this many ids, it can't still be unfinished

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._ids = [*after]  # the last few, whose text may still change
        text = tokenizer.decode(self._ids)
        self._emitted = len(text)  # characters of their text that were returned
        self._broken = 0  # ids since their text last ended with a whole character
        self._forget(text)

    def push(self, *ids: int) -> str:
        """Add `ids`, and return the new text that later ids can't change."""
        self._ids.extend(ids)
        text = self._tokenizer.decode(self._ids)
        whole = text.rstrip("\ufffd")  # the rest may be an unfinished character
        self._broken = 0 if whole == text else self._broken + len(ids)
        may_go_on = 0 < self._broken < self._BYTES
        certain = len(whole) if may_go_on else len(text) - (whole != text)
        new = text[self._emitted : certain]
        self._emitted = max(self._emitted, certain)
        if not may_go_on:
            self._forget(text)
        return new

    def flush(self) -> str:
        """Return the rest of the text, which no `push` has returned yet."""
        rest = self._tokenizer.decode(self._ids)[self._emitted :]
        self._ids, self._emitted = [], 0
        return rest

    def _forget(self, text: str) -> None:
        """Drop the first ids if the text of the rest is the same without them."""
        for kept in range(self._CONTEXT, min(2 * self._CONTEXT, len(self._ids))):
            rest = self._tokenizer.decode(self._ids[-kept:])
            dropped = len(text) - len(rest)
            if text.endswith(rest) and dropped <= self._emitted:
                self._ids, self._emitted = self._ids[-kept:], self._emitted - dropped
                return


def from_json(text: str, special: SpecialTokens | None = None) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json's text, as `Tokenizer.load` does."""
    return Tokenizer(tokenizers.Tokenizer.from_str(text), special)


def _framing(backend: tokenizers.Tokenizer) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the ids that the post-processor puts before and after a text."""
    nothing = np.empty(0, np.int32)
    if not backend.num_special_tokens_to_add(is_pair=False):
        return nothing, nothing
    for text in ("a", *backend.get_vocab()):  # use the first text that has a token
        encoding = backend.encode(text)
        ids = np.array(encoding.ids, np.int32)
        (own,) = np.nonzero(np.equal(encoding.special_tokens_mask, 0))
        if own.size:
            return ids[: own[0]], ids[own[-1] + 1 :]
    return nothing, nothing


def _byte_level(model: models.Model) -> tokenizers.Tokenizer:
    """Return a tokenizer for byte-level words, split by GPT-2's regular expression."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_trainer() -> dict[str, Any]:
    """Return trainer options that put the separator and every byte into the vocabulary."""
    alphabet = signs_of_bytes()
    return {"special_tokens": [SEPARATOR], "initial_alphabet": alphabet, "show_progress": False}


def signs_of_bytes() -> list[str]:
    """Return the printable character for each byte in GPT-2's byte-level encoding."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
