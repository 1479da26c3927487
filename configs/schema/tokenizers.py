"""The configuration section `data.tokenizer`: the kinds of tokenizers."""

from typing import Annotated, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, FilePath, Settings, field


class _Tokenizer(Settings):
    discriminator: ClassVar = "kind"

    kind: str = field("", "Kind of tokenizer.")


class Characters(_Tokenizer):
    """A tokenizer with one token for each character of the training text."""

    kind: Literal["characters"] = "characters"


class Bytes(_Tokenizer):
    """A tokenizer with one token for each byte of UTF-8."""

    kind: Literal["bytes"] = "bytes"


class _Learnt(_Tokenizer):
    """Base class of tokenizers whose vocabulary is learnt from the training text."""

    vocabulary_size: int = field(4096, "Number of tokens.", unit="tokens", aliases=("vocab_size",))


class BPE(_Learnt):
    """Byte-pair encoding, learnt from the training text."""

    kind: Literal["bpe"] = "bpe"
    vocabulary_size: Annotated[int, Interval(ge=258, le=INTEGER_LIMIT)] = field(
        meaning="Vocabulary size: 256 bytes, the document separator, and the merged tokens."
    )


class Unigram(_Learnt):
    """Unigram: the most likely pieces of words, by a model learnt from the training text."""

    kind: Literal["unigram"] = "unigram"
    vocabulary_size: Annotated[int, Interval(ge=258, le=INTEGER_LIMIT)] = field(
        meaning="Vocabulary size: 256 bytes, the document separator, and longer pieces."
    )


class WordPiece(_Learnt):
    """WordPiece: splits words into the longest pieces of a vocabulary learnt from the training
    text."""

    kind: Literal["wordpiece"] = "wordpiece"
    vocabulary_size: Annotated[int, Interval(ge=514, le=INTEGER_LIMIT)] = field(
        meaning="Vocabulary size: 256 bytes at the start of a word, 256 inside a word, the "
        "document separator, and longer pieces."
    )


class Words(_Learnt):
    """A token for each of the most frequent words of the training text, and one for all others."""

    kind: Literal["words"] = "words"
    vocabulary_size: Annotated[int, Interval(ge=3, le=INTEGER_LIMIT)] = field(
        meaning="Vocabulary size: the document separator, the unknown token, and the most frequent "
        "words."
    )


class TokenizerFile(_Tokenizer):
    """An existing tokenizer, in a `tokenizer.json`."""

    kind: Literal["file"] = "file"
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
