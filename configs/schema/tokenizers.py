"""The section `data.tokenizer`: how text becomes tokens."""

from typing import Annotated, Any, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, Settings, field
from configs.schema.source import FilePath


class _Tokenizer(Settings):
    discriminator: ClassVar = "kind"


class Characters(_Tokenizer):
    """A token for each character of the training text."""

    kind: Literal["characters"] = field("characters", "How text becomes tokens.")


class Bytes(_Tokenizer):
    """A token for each byte of the UTF-8 text."""

    kind: Literal["bytes"] = field("bytes", "How text becomes tokens.")


def _vocabulary_size(meaning: str) -> Any:
    return field(4096, meaning, unit="tokens", aliases=("vocab_size",))


class BPE(_Tokenizer):
    """Byte-pair encoding, learnt from the training text."""

    kind: Literal["bpe"] = field("bpe", "How text becomes tokens.")
    vocabulary_size: Annotated[int, Interval(ge=258, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Tokens in all: 256 bytes, the separator of documents, and what is merged."
    )


class Unigram(_Tokenizer):
    """Unigram: the likeliest pieces of words under a model learnt from the training text."""

    kind: Literal["unigram"] = field("unigram", "How text becomes tokens.")
    vocabulary_size: Annotated[int, Interval(ge=258, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Tokens in all: 256 bytes, the separator of documents, and longer pieces."
    )


class WordPiece(_Tokenizer):
    """WordPiece: the longest known pieces of words, learnt from the training text."""

    kind: Literal["wordpiece"] = field("wordpiece", "How text becomes tokens.")
    vocabulary_size: Annotated[int, Interval(ge=514, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Tokens in all: 256 bytes twice, the separator of documents, and longer pieces."
    )


class Words(_Tokenizer):
    """The most frequent words of the training text. All other words share one unknown token."""

    kind: Literal["words"] = field("words", "How text becomes tokens.")
    vocabulary_size: Annotated[int, Interval(ge=3, le=INTEGER_LIMIT)] = _vocabulary_size(
        "Tokens in all: the separator of documents, the unknown word, and the most frequent words."
    )


class TokenizerFile(_Tokenizer):
    """An existing tokenizer.json."""

    kind: Literal["file"] = field("file", "How text becomes tokens.")
    path: FilePath | None = field(
        None, "A tokenizer.json of the `tokenizers` library.", required=True, accepts="a file"
    )


Tokenizer = Annotated[
    Characters | Bytes | BPE | Unigram | WordPiece | Words | TokenizerFile,
    pydantic.Discriminator("kind"),
]
