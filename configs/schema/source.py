"""The base class of data sources, and fields that several sources share."""

from typing import Annotated, Any, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.settings import INTEGER_LIMIT, Count, Fraction, Settings, field

PlainText = Annotated[str, pydantic.StringConstraints(min_length=1)]
FilePath = PlainText
InvalidUTF8 = Literal["error", "replace"]
Length = Annotated[int, Interval(ge=2, le=INTEGER_LIMIT)]
LengthBuckets = Annotated[int, Interval(ge=1, le=64)]

PATH_NAMES = (
    "file", "dir", "folder", "dataset", "data", "data_path", "data_root", "dataset_path",
    "train_file", "train_data", "train_path", "train_dir",
)  # fmt: skip
"""Names of `data.path` in other trainers."""


def user_path_field(
    meaning: str,
    accepts: str = "a file, a folder or a glob",
    *,
    required: bool = True,
    aliases: tuple[str, ...] = (),
) -> Any:
    """Declare the field `path`: where the user's data is. The arguments are those of `field`."""
    return field(
        None,
        meaning,
        required=required,
        mutable_on_resume=True,
        accepts=accepts,
        aliases=(*PATH_NAMES, *aliases),
    )


def sequence_length_field(meaning: str) -> Any:
    """Declare the field `sequence_length`, in tokens. meaning: its description."""
    aliases = ("block_size", "context_length", "seq_len", "max_length", "max_seq_length")
    return field(256, meaning, unit="tokens", aliases=aliases)


def length_buckets_field(padded: str) -> Any:
    """Declare the field `length_buckets`: the number of lengths that batches are padded to.

    padded: what is padded, with its verb, such as "recordings are".
    """
    return field(
        4,
        f"Largest number of lengths that {padded} padded to. More lengths mean less padding, but "
        "more train steps to compile.",
        aliases=("num_buckets", "buckets", "bucket_boundaries"),
    )


class Source(Settings):
    """Base class of data sources."""

    discriminator: ClassVar = "source"
    modality: ClassVar[str]
    """Kind of data, such as "text": one of the `modalities` of tasks and architectures."""

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


class UserFiles(Settings):
    """The field of data sources that read files of the user."""

    splits: Literal["names", "none"] = field(
        "names",
        "How files and folders are assigned to splits. names: by their names, such as dev.tsv or "
        "test_set; none: all are for training.",
        mutable_on_resume=True,
    )


# Fields that several sources share.
INVALID_UTF8 = field(
    "error", "Handling of invalid UTF-8. error: data preparation fails; replace: it becomes U+FFFD."
)
PREPARED_NAME = field(
    None,
    "Name of the data set in TensorFlow Datasets. Without a version, the newest is used.",
    required=True,
    accepts="NAME, NAME/CONFIG or NAME/CONFIG:VERSION",
    aliases=("dataset_name",),
)
PREPARED_DIR = field(
    None,
    "Folder of TensorFlow Datasets; none: $TFDS_DATA_DIR, or ~/tensorflow_datasets if that is "
    "not set.",
    mutable_on_resume=True,
    accepts="a folder",
)
