"""Data sources of text pairs: a source text, and the target text that a model generates from it."""

from typing import ClassVar, Literal

from configs.schema.settings import FilePath, PlainText, field
from configs.schema.source import (
    DecodedText,
    Length,
    LengthBuckets,
    PreparedSet,
    Shards,
    Source,
    UserFiles,
)
from configs.schema.tokenizers import BPE, Tokenizer


class Pairs(Source):
    """Base class of data sources of text pairs."""

    modality: ClassVar = "text_pairs"
    has_tokenizer: ClassVar = True

    max_source_length: Length = field(
        256,
        "Longest source, including the separator at its end. Training skips pairs with a longer "
        "source; evaluation cuts the source.",
        unit="tokens",
        aliases=("max_source_positions", "max_src_length", "src_seq_length", "source_length"),
    )
    max_target_length: Length = field(
        256,
        "Longest target, including the separator at its end. Training skips pairs with a longer "
        "target; evaluation cuts the target.",
        unit="tokens",
        aliases=("max_target_positions", "max_tgt_length", "tgt_seq_length", "target_length"),
    )
    length_buckets: LengthBuckets = field(
        4,
        "Largest number of lengths that each side is padded to. More lengths mean less padding, "
        "but more train steps to compile.",
        aliases=("num_buckets", "buckets", "bucket_boundaries"),
    )
    tokenizer: Tokenizer = field(BPE(), "Tokenizer of both source and target.")


class WrittenPairs(DecodedText, Pairs):
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

    def named_fields(self) -> dict[str, str]:
        return {
            "source_field": self.source_field or self.source_language,
            "target_field": self.target_field or self.target_language,
        }

    def unused_fields(self) -> dict[str, str]:
        given = {"source": self.source_field, "target": self.target_field}
        return {
            f"{side}_language": f"data.{side}_field is given"
            for side, name in given.items()
            if name is not None
        }

    def check(self) -> None:
        source, target = self.named_fields().values()
        if source == target:
            raise ValueError(
                f"data.source_language and data.target_language (or the fields) are both {source}: "
                "a text can't be its own target"
            )


class ParallelText(UserFiles, WrittenPairs):
    """The user's pairs: two files with one line per pair, or a table with one row per pair."""

    source: Literal["parallel_text"] = "parallel_text"
    path: FilePath | None = field(
        meaning="A folder with train.en and train.de, the common prefix of two such files, or a "
        "table: .tsv, .csv, .jsonl or .parquet.",
        accepts="a folder, the beginning of files' names, a file or a glob",
    )

    def missing_path(self) -> str:
        return (
            "say where the pairs are, --config.data.path=FOLDER with "
            f"train.{self.source_language} and train.{self.target_language}, or a table (.tsv, "
            ".csv, .jsonl, .parquet)"
        )


class TFDSPairs(PreparedSet, WrittenPairs):
    """A set of text pairs that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds_pairs"] = "tfds_pairs"


class WebDatasetPairs(Shards, WrittenPairs):
    """WebDataset's shards with text pairs."""

    source: Literal["webdataset_pairs"] = "webdataset_pairs"


class Dates(Pairs):
    """Generated dates in words, and the same dates in digits (ISO 8601). No date appears twice."""

    source: Literal["dates"] = "dates"
    max_source_length: Length = 128
    max_target_length: Length = 16


AnyPairs = ParallelText | TFDSPairs | WebDatasetPairs | Dates
