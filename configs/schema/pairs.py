"""Data sources of text pairs: a source text, and the target text that a model generates from it."""

from typing import Any, ClassVar, Literal, Self

import pydantic

from configs.schema.settings import field
from configs.schema.source import (
    INVALID_UTF8,
    PREPARED_DIR,
    PREPARED_NAME,
    FilePath,
    InvalidUTF8,
    Length,
    LengthBuckets,
    PlainText,
    Source,
    UserFiles,
    length_buckets_field,
    user_path_field,
)
from configs.schema.tokenizers import BPE, Tokenizer


def _max_length(default: int, side: str, *aliases: str) -> Any:
    return field(
        default,
        f"Longest {side}, including the separator at its end. Training skips pairs with a longer "
        f"{side}; evaluation cuts the {side}.",
        unit="tokens",
        aliases=aliases,
    )


def _max_source_length(default: int) -> Any:
    names = ("max_source_positions", "max_src_length", "src_seq_length", "source_length")
    return _max_length(default, "source", *names)


def _max_target_length(default: int) -> Any:
    names = ("max_target_positions", "max_tgt_length", "tgt_seq_length", "target_length")
    return _max_length(default, "target", *names)


class Pairs(Source):
    """Base class of data sources of text pairs."""

    modality: ClassVar = "text_pairs"

    max_source_length: Length = _max_source_length(256)
    max_target_length: Length = _max_target_length(256)
    length_buckets: LengthBuckets = length_buckets_field("each side is")
    tokenizer: Tokenizer = field(BPE(), "Tokenizer of both source and target.")


class WrittenPairs(Pairs):
    """Base class of text pairs from files or data sets. Each side has a language or field name."""

    source_language: PlainText = field(
        "en",
        "Language of the source: the extension of its files, and the default name of its field.",
        aliases=("source_lang", "src_lang", "src"),
    )
    target_language: PlainText = field(
        "de",
        "Language of the target: the extension of its files, and the default name of its field.",
        aliases=("target_lang", "tgt_lang", "tgt"),
    )
    source_field: PlainText | None = field(
        None,
        "Field or column that contains the source; none: the field named data.source_language.",
        aliases=("source_column", "input_field"),
    )
    target_field: PlainText | None = field(
        None,
        "Field or column that contains the target; none: the field named data.target_language.",
        aliases=("target_column", "summary_column", "output_field"),
    )
    invalid_utf8: InvalidUTF8 = INVALID_UTF8

    def sides(self) -> tuple[str, str]:
        """Return the names of the fields that contain the source and the target."""
        return self.source_field or self.source_language, self.target_field or self.target_language

    def unused_fields(self) -> dict[str, str]:
        given = {"source": self.source_field, "target": self.target_field}
        return {
            f"{side}_language": f"data.{side}_field is given"
            for side, name in given.items()
            if name is not None
        }

    @pydantic.model_validator(mode="after")
    def _check_sides(self) -> Self:
        source, target = self.sides()
        if source == target:
            raise ValueError(
                f"data.source_language and data.target_language (or the fields) are both {source}: "
                "a text can't be its own target"
            )
        return self


class ParallelText(UserFiles, WrittenPairs):
    """The user's pairs: two files with one line per pair, or a table with one row per pair."""

    source: Literal["parallel_text"] = field("parallel_text", "Source of the examples.")
    path: FilePath | None = user_path_field(
        "A folder with train.en and train.de, the common prefix of two such files, or a table: "
        ".tsv, .csv, .jsonl or .parquet.",
        "a folder, the beginning of files' names, a file or a glob",
    )


class TFDSPairs(WrittenPairs):
    """A set of text pairs that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds_pairs"] = field("tfds_pairs", "Source of the examples.")
    name: PlainText | None = PREPARED_NAME
    data_dir: FilePath | None = PREPARED_DIR


class Dates(Pairs):
    """Generated dates in words, and the same dates in digits (ISO 8601). No date appears twice."""

    source: Literal["dates"] = field("dates", "Source of the examples.")
    max_source_length: Length = _max_source_length(128)
    max_target_length: Length = _max_target_length(16)


AnyPairs = ParallelText | TFDSPairs | Dates
