"""The parts that data sources are made of: the base class of all sources, and the storages.

A data source joins a storage, such as `UserFiles` or `PreparedSet`, and a modality: a subclass of
`Source` such as `Text` or `Pictures`. It has the fields of both.
"""

from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from configs.schema.settings import (
    INTEGER_LIMIT,
    Count,
    FilePath,
    Fraction,
    PlainText,
    Settings,
    field,
)
from configs.schema.tokenizers import BPE, Tokenizer

Length = Annotated[int, Interval(ge=2, le=INTEGER_LIMIT)]
LengthBuckets = Annotated[int, Interval(ge=1, le=64)]


class Source(Settings):
    """Base class of data sources."""

    discriminator: ClassVar = "source"
    modality: ClassVar[str]
    """Kind of data, such as "text": one of the `modalities` of tasks and architectures."""
    has_tokenizer: ClassVar[bool] = False
    """Whether examples have tokens, and the section a field `tokenizer`."""
    may_break: ClassVar[bool] = False
    """Whether single examples may be unreadable, and the section has a field `broken_fraction`."""

    source: str = field("", "Source of the examples.")
    global_batch_size: Count = field(
        32,
        "Examples per update, in total over all devices and gradient accumulation.",
        unit="examples",
        aliases=("batch_size", "batch", "bs", "train_batch_size", "per_device_train_batch_size"),
    )
    validation_fraction: Fraction = field(
        0.1,
        "Share of the training data that is held out for validation if there is no validation "
        "split.",
        aliases=("val_fraction", "holdout", "val_split", "validation_split", "val_ratio"),
    )
    workers: Annotated[int, Interval(ge=0, le=1024)] = field(
        0,
        "Number of worker processes that read and decode data; 0: threads of the main process.",
        unit="processes",
        mutable_on_resume=True,
        aliases=("num_workers", "dataloader_num_workers", "num_proc"),
    )
    cache_dir: FilePath | None = field(
        None,
        "Folder for prepared data; none: $TRIFORM_CACHE, or ~/.cache/triform if that is not set.",
        mutable_on_resume=True,
        accepts="a folder",
        aliases=("cache",),
    )

    def named_fields(self) -> dict[str, str]:
        """Return the fields of the user's rows that settings name, by the setting."""
        return {name: value for name, value in self if name.endswith("_field")}


class TokenizedText(Source):
    """Base class of data sources of texts that become tokens of one sequence."""

    has_tokenizer: ClassVar = True

    sequence_length: Length = field(
        256,
        "Length of the windows that text is cut into, which is the model's context length.",
        unit="tokens",
        aliases=("block_size", "context_length", "seq_len", "max_length", "max_seq_length"),
    )
    tokenizer: Tokenizer = field(BPE(), "How text becomes tokens.")


class Splits(Settings):
    """The field of sources whose splits are recognised by names of files and folders."""

    splits: Literal["names", "none"] = field(
        "names",
        "How files and folders are assigned to splits. names: by their names, such as dev.tsv or "
        "test_set; none: all are for training.",
        mutable_on_resume=True,
    )


class UserFiles(Splits):
    """The storage of sources that read files of the user."""

    path: FilePath | None = field(
        None,
        "The files.",
        required=True,
        mutable_on_resume=True,
        accepts="a file, a folder or a glob",
        aliases=(
            "file", "dir", "folder", "dataset", "data", "data_path", "data_root", "dataset_path",
            "train_file", "train_data", "train_path", "train_dir",
        ),
    )  # fmt: skip

    def missing_path(self) -> str:
        """Return what the user should do if `path` is not given."""
        return "say where the text is, --config.data.path=FILE (or a folder, or a glob in quotes)"


class PreparedFolder(Settings):
    """The field of sources that read from the folder of TensorFlow Datasets."""

    data_dir: FilePath | None = field(
        None,
        "Folder of TensorFlow Datasets; none: $TFDS_DATA_DIR, or ~/tensorflow_datasets if that is "
        "not set.",
        mutable_on_resume=True,
        accepts="a folder",
    )


class PreparedSet(PreparedFolder):
    """The storage of sources that TensorFlow Datasets prepared as ArrayRecord files."""

    name: PlainText | None = field(
        None,
        "Name of the data set in TensorFlow Datasets. Without a version, the newest is used.",
        required=True,
        accepts="NAME, NAME/CONFIG or NAME/CONFIG:VERSION",
        aliases=("dataset_name",),
    )


class DecodedText(Settings):
    """The field of sources that decode text."""

    invalid_utf8: Literal["error", "replace"] = field(
        "error",
        "Handling of invalid UTF-8. error: data preparation fails; replace: it becomes U+FFFD.",
    )


class Shards(DecodedText, UserFiles):
    """The storage of sources that read WebDataset's shards."""

    path: FilePath | None = field(
        meaning="The shards: tar files, which may be compressed.",
        accepts="a file, a folder, or a pattern such as train-{000..012}.tar",
    )

    def missing_path(self) -> str:
        return (
            "say where the shards are, --config.data.path=FOLDER (or a tar file, or a pattern in "
            "quotes, 'train-{000..012}.tar')"
        )
