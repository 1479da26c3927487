"""Translates tokenizer.json to the vocabulary of a GGUF file, from which llama.cpp encodes texts.

llama.cpp has tokenizers of its own. This module finds the one that gives every text the same ids,
or says that there is none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from configs.errors import UsageError
from data.codecs.tokenizers import UNKNOWN as UNKNOWN_TEXT
from data.codecs.tokenizers import Tokenizer

NO_COUNTERPART = {
    "unigram": "llama.cpp has no unigram model of bytes",
    "wordpiece": "llama.cpp's WordPiece changes letters to lower case and drops white space",
    "words": "llama.cpp has no tokenizer of whole words",
}
"""Why llama.cpp can't encode texts with some `data.tokenizer.kind`."""

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of tokens, the values of tokenizer.ggml.token_type."""

SPACE = "\u2581"
"""Stands for a space in the tokens of SentencePiece."""

_GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_BYTES = _GPT2 | {"use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUMBER| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _split(regex: str) -> dict[str, Any]:
    """Return a pre-tokenizer that splits by a regular expression, and then into bytes."""
    split = {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, _BYTES]}


@dataclass(frozen=True)
class PreTokenizer:
    """A way to split texts into words.

    name: llama.cpp's name, the value of tokenizer.ggml.pre.
    spec: the pre-tokenizer in tokenizer.json.
    ignores_merges: whether a word that is a token is encoded as this token, without merges.
    """

    name: str
    spec: Mapping[str, Any]
    ignores_merges: bool = False


PRE_TOKENIZERS = (
    PreTokenizer("gpt-2", _GPT2),
    PreTokenizer("llama-bpe", _split(_WORDS.replace("NUMBER", "{1,3}")), ignores_merges=True),
    PreTokenizer("qwen2", _split(_WORDS.replace("NUMBER", ""))),
    PreTokenizer("smollm", {"type": "Sequence", "pretokenizers": [_DIGITS, _GPT2]}),
)
"""The pre-tokenizers of byte-level byte-pair encodings that llama.cpp has too, as llama.cpp's
`llm_tokenizer_bpe` lists them."""


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a GGUF file.

    model: llama.cpp's tokenizer, the value of tokenizer.ggml.model.
    tokens, kinds: the text and the kind of each token.
    pre: the pre-tokenizer of a byte-pair encoding.
    merges: the merges of a byte-pair encoding, two tokens separated by a space.
    scores: the score of each token, for models that have them.
    unknown_id: the token of what the vocabulary lacks.
    adds_space: whether a space is put before a text.
    notes: what is not quite the same, for the user.
    """

    model: str
    tokens: Sequence[str]
    kinds: Sequence[int]
    pre: str | None = None
    merges: Sequence[str] | None = None
    scores: Sequence[float] | None = None
    unknown_id: int | None = None
    adds_space: bool = False
    notes: tuple[str, ...] = ()

    @property
    def suppressed(self) -> list[int]:
        """Return the tokens that generate.py never writes: those without a text."""
        pairs = enumerate(zip(self.tokens, self.kinds, strict=True))
        return [n for n, (text, kind) in pairs if kind == UNUSED or text == UNKNOWN_TEXT]


def vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """Return the vocabulary with which llama.cpp encodes texts as `tokenizer` does.

    size: the number of tokens of the model, at least as many as the tokenizer has. Raises
    `UsageError` if llama.cpp has no such tokenizer.
    """
    spec = json.loads(tokenizer.backend.to_str())
    tokens, kinds = _tokens(spec, size)
    model = spec["model"]
    if model["type"] != "BPE":
        raise _refusal(f"its model is {model['type']}, and only BPE can be written")
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise _refusal("its BPE has dropout, a prefix or a suffix of subwords")
    bare = Vocabulary("gpt2", tokens, kinds)
    if model["byte_fallback"]:
        return _sentencepiece(spec, bare)
    if spec["pre_tokenizer"] is None:
        return _characters(spec, bare)
    return _byte_level(spec, bare)


def _refusal(reason: str) -> UsageError:
    return UsageError(
        f"--format=gguf: llama.cpp has no tokenizer like this tokenizer.json: {reason}"
    )


def _tokens(spec: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return the text and the kind of each token; ids without a token are unused."""
    tokens, kinds = [f"[UNUSED_{number}]" for number in range(size)], [UNUSED] * size
    for text, number in spec["model"].get("vocab", {}).items() if _is_bpe(spec) else ():
        tokens[number], kinds[number] = text, NORMAL
    for added in spec["added_tokens"]:
        if not added["special"] and (added["lstrip"] or added["rstrip"] or added["single_word"]):
            raise _refusal(f"its token {added['content']!r} depends on the text around it")
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, kinds


def _is_bpe(spec: Mapping[str, Any]) -> bool:
    return spec["model"]["type"] == "BPE"


def _byte_level(spec: Mapping[str, Any], bare: Vocabulary) -> Vocabulary:
    """Return the vocabulary of a byte-pair encoding of bytes, as GPT-2 has it."""
    model, normalizer = spec["model"], spec["normalizer"]
    notes: tuple[str, ...] = ()
    if normalizer == {"type": "NFC"}:
        notes = ("llama.cpp does not bring texts to Unicode's form NFC, as this tokenizer does",)
    elif normalizer is not None:
        raise _refusal(f"it has the normalizer {normalizer['type']}")
    if model["unk_token"] is not None:
        raise _refusal(f"its unknown token {model['unk_token']!r} is not for bytes")
    merges = list(_merges(spec))
    pre = _without(spec["pre_tokenizer"], "trim_offsets")
    ignores = model["ignore_merges"] and bool(merges)
    matching = [
        one.name for one in PRE_TOKENIZERS if (one.spec, one.ignores_merges) == (pre, ignores)
    ]
    if not merges and pre == _BYTES:
        matching = ["gpt-2"]  # A token a byte, however the text is split.
    if not matching:
        names = ", ".join(one.name for one in PRE_TOKENIZERS)
        raise _refusal(f"its pre-tokenizer is none of {names}")
    # llama.cpp wants a list of merges. A merge to what is no token changes nothing: its bytes are
    # encoded one by one.
    pairs = [f"{left} {right}" for left, right in merges] or ["a b"]
    return replace(bare, pre=matching[0], merges=pairs, notes=notes)


def _characters(spec: Mapping[str, Any], bare: Vocabulary) -> Vocabulary:
    """Return the vocabulary of a tokenizer with a token for each character: llama.cpp's unigram
    model, in which all tokens have the same score."""
    model = spec["model"]
    plain = [text for text, kind in zip(bare.tokens, bare.kinds, strict=True) if kind == NORMAL]
    if spec["normalizer"] or model["merges"] or model["fuse_unk"] or model["unk_token"] is None:
        raise _refusal("it has no pre-tokenizer, and is not one of characters")
    if any(len(text) != 1 for text in plain):
        raise _refusal("it has no pre-tokenizer, and is not one of characters")
    if SPACE in plain:
        raise _refusal(f"it has the character {SPACE} (U+2581), which llama.cpp takes for a space")
    unknown = bare.tokens.index(model["unk_token"])
    return replace(
        bare,
        model="t5",
        tokens=[SPACE if text == " " else text for text in bare.tokens],
        kinds=_with(bare.kinds, unknown, UNKNOWN),
        scores=[-1.0] * len(bare.tokens),
        unknown_id=unknown,
        notes=("llama.cpp gives several unknown characters in a row one token",),
    )


def _sentencepiece(spec: Mapping[str, Any], bare: Vocabulary) -> Vocabulary:
    """Return the vocabulary of a byte-pair encoding that was made of a SentencePiece model, as in
    Llama 1 and 2.

    SentencePiece merges by the scores of the results, and tokenizer.json by a list of pairs. Both
    are the same if the list has every way to make each token, ordered by the results.
    """
    model = spec["model"]
    unknown = bare.tokens.index(model["unk_token"]) if model["unk_token"] in bare.tokens else None
    if unknown is None or model["ignore_merges"]:
        raise _refusal("its BPE has bytes for unknown characters, but no unknown token")
    adds_space = _adds_space(spec)
    merges = list(_merges(spec))
    results = list(dict.fromkeys(left + right for left, right in merges))
    scores = {text: -float(number) for number, text in enumerate(results)}
    wanted = [pair for text in results for pair in _ways(text, model["vocab"])]
    if sorted(merges) != sorted(wanted) or any(
        scores[a + b] < scores[c + d] for (a, b), (c, d) in pairwise(merges)
    ):
        raise _refusal("its merges are not those of a SentencePiece model")
    kinds = _with(bare.kinds, unknown, UNKNOWN)
    for byte in range(256):
        text = f"<0x{byte:02X}>"
        if text not in model["vocab"]:
            raise _refusal(f"it has no token {text}")
        kinds[model["vocab"][text]] = BYTE
    return replace(
        bare,
        model="llama",
        kinds=kinds,
        scores=[scores.get(text, -1e6) for text in bare.tokens],
        unknown_id=unknown,
        adds_space=adds_space,
    )


def _adds_space(spec: Mapping[str, Any]) -> bool:
    """Return whether the tokenizer puts a space before a text. Raises `UsageError` if it changes
    texts in other ways than SentencePiece."""
    normalizer, pre = spec["normalizer"], spec["pre_tokenizer"]
    prepend = {"type": "Prepend", "prepend": SPACE}
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if pre is None and normalizer in (spaces, {"type": "Sequence", "normalizers": [spaces]}):
        return False
    if pre is None and normalizer == {"type": "Sequence", "normalizers": [prepend, spaces]}:
        return True
    metaspace = {"type": "Metaspace", "replacement": SPACE, "split": False}
    if normalizer is None and _without(pre, "prepend_scheme") == metaspace:
        return pre["prepend_scheme"] != "never"
    raise _refusal("it changes texts before their encoding in other ways than SentencePiece")


def _ways(text: str, known: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield all pairs of known tokens that make a token."""
    for at in range(1, len(text)):
        if text[:at] in known and text[at:] in known:
            yield text[:at], text[at:]


def _merges(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the two tokens of each merge; old files write them with a space between them."""
    for pair in spec["model"]["merges"]:
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        yield left, right


def _without(spec: Any, name: str) -> Any:
    """Return a specification without a field, in nested ones too."""
    if isinstance(spec, dict):
        return {key: _without(value, name) for key, value in spec.items() if key != name}
    return [_without(one, name) for one in spec] if isinstance(spec, list) else spec


def _with(kinds: Sequence[int], number: int, kind: int) -> list[int]:
    return [kind if index == number else old for index, old in enumerate(kinds)]
