"""The configuration section `data.tokenizer`: the kinds of tokenizers."""

from typing import Annotated, Any, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, Settings, field
from configs.schema.source import FilePath


class _Tokenizer(Settings):
    discriminator: ClassVar = "kind"


class Characters(_Tokenizer):
    """A tokenizer with one token for each character of the training text."""

    kind: Literal["characters"] = field("characters", "Kind of tokenizer.")


class Bytes(_Tokenizer):
    """A tokenizer with one token for each byte of UTF-8."""

    kind: Literal["bytes"] = field("bytes", "Kind of tokenizer.")


def _vocabulary_size(meaning: str) -> Any:
    return field(4096, meaning, unit="tokens", aliases=("vocab_size",))


class BPE(_Tokenizer):
    """Byte-pair encoding, learnt from the training text."""

    kind: Literal["bpe"] = field("bpe", "Kind of tokenizer.")
    vocabulary_size: Annotated[int, Interval(ge=258, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Vocabulary size: 256 bytes, the document separator, and the merged tokens."
    )


class Unigram(_Tokenizer):
    """Unigram: the most likely pieces of words, by a model learnt from the training text."""

    kind: Literal["unigram"] = field("unigram", "Kind of tokenizer.")
    vocabulary_size: Annotated[int, Interval(ge=258, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Vocabulary size: 256 bytes, the document separator, and longer pieces."
    )


class WordPiece(_Tokenizer):
    """WordPiece: splits words into the longest pieces of a vocabulary learnt from the training
    text."""

    kind: Literal["wordpiece"] = field("wordpiece", "Kind of tokenizer.")
    vocabulary_size: Annotated[int, Interval(ge=514, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Vocabulary size: 256 bytes at the start of a word, 256 inside a word, the document "
        "separator, and longer pieces."
    )


class Words(_Tokenizer):
    """A token for each of the most frequent words of the training text, and one for all others."""

    kind: Literal["words"] = field("words", "Kind of tokenizer.")
    vocabulary_size: Annotated[int, Interval(ge=3, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Vocabulary size: the document separator, the unknown token, and the most frequent words."
    )


class TokenizerFile(_Tokenizer):
    """An existing tokenizer, in a `tokenizer.json`."""

    kind: Literal["file"] = field("file", "Kind of tokenizer.")
    path: FilePath | None = field(
        None,
        "Path of a tokenizer.json of Hugging Face's `tokenizers` library.",
        required=True,
        accepts="a file",
    )


Tokenizer = Annotated[
    Characters | Bytes | BPE | Unigram | WordPiece | Words | TokenizerFile,
    pydantic.Discriminator("kind"),
]
