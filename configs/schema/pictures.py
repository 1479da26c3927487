"""Sources of labelled pictures, their size, and their augmentation."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from configs.schema.settings import Count, Fraction, Probability, Settings, field
from configs.schema.source import (
    PREPARED_DIR,
    PREPARED_NAME,
    FilePath,
    PlainText,
    Source,
    user_path_field,
)

ImageSize = Annotated[int, Interval(ge=4, le=1024)]


class Augmentation(Settings):
    """Random changes of training pictures, drawn anew for each reading. Off by default."""

    crop: Literal["none", "padded", "random_resized"] = field(
        "none",
        "Part of a picture that is used: none: as in evaluation; padded: padded, and cut at a "
        "random place; random_resized: a part of random area and aspect.",
        aliases=("random_crop", "random_resized_crop", "inception_crop"),
    )
    crop_padding: Count = field(
        4, "Zeros around the picture before a padded crop.", unit="pixels", aliases=("pad",)
    )
    crop_smallest_area: Annotated[float, Interval(ge=0.001, le=1.0)] = field(
        0.08,
        "Smallest share of the picture's area that a random-resized crop takes.",
        aliases=("scale", "crop_scale", "min_area"),
    )
    crop_largest_aspect: Annotated[float, Interval(ge=1.0, le=10.0)] = field(
        4 / 3,
        "Largest ratio of the longer to the shorter side of a random-resized crop.",
        aliases=("ratio", "aspect_ratio", "crop_ratio"),
    )
    flip_probability: Probability = field(
        0.0, "How often left and right are swapped.", aliases=("hflip", "horizontal_flip")
    )
    brightness: Probability = field(
        0.0,
        "Strength s of colour jitter: brightness times 1 - s to 1 + s.",
        aliases=("color_jitter",),
    )
    contrast: Probability = field(0.0, "The same for contrast.")
    saturation: Probability = field(0.0, "The same for saturation.")
    randaugment_layers: Annotated[int, Interval(ge=0, le=10)] = field(
        0,
        "Operations of RandAugment, one after the other.",
        aliases=("randaug", "rand_augment", "num_ops", "auto_augment"),
    )
    randaugment_magnitude: Annotated[float, Interval(ge=0.0, le=10.0)] = field(
        10.0, "Strength of each operation of RandAugment.", aliases=("magnitude",)
    )
    erasing_probability: Probability = field(
        0.0,
        "How often a rectangle is overwritten with noise.",
        aliases=("random_erasing", "erasing", "reprob"),
    )

    def unused_fields(self) -> dict[str, str]:
        why = f"crop is {self.crop}"
        reasons = {} if self.crop == "padded" else {"crop_padding": why}
        if self.crop != "random_resized":
            reasons |= dict.fromkeys(("crop_smallest_area", "crop_largest_aspect"), why)
        if not self.randaugment_layers:
            reasons["randaugment_magnitude"] = "randaugment_layers is 0"
        return reasons


def _image_size(default: int | None, meaning: str) -> Any:
    return field(default, meaning, unit="pixels", aliases=("resolution", "img_size"))


class Pictures(Source):
    """Fields of all sources of pictures."""

    modality: ClassVar = "pictures"

    image_size: ImageSize | None = _image_size(
        None,
        "Height and width of all pictures; none: their own if all have the same size of up to 64 "
        "pixels, else 224.",
    )
    channels: Literal[1, 3] | None = field(
        None,
        "1 for grey, 3 for colour; none: as in the data set, or 3 for a folder.",
        aliases=("num_channels", "in_channels", "in_chans"),
    )
    crop_ratio: Annotated[float, Interval(ge=0.1, le=1.0)] = field(
        1.0,
        "Share of the short side that evaluation sees, in a square from the middle.",
        aliases=("crop_pct", "center_crop", "centre_crop"),
    )
    decoded: Literal["auto", "arrays", "files"] = field(
        "auto",
        "What is stored: pixels, decoded once (arrays); files, decoded each time; auto: pixels "
        "if they fit.",
        aliases=("cache_images", "in_memory"),
    )
    decoded_bytes: Count = field(
        2**31 - 1, "Largest size of all pictures' pixels for which auto stores them.", unit="bytes"
    )
    broken_fraction: Fraction = field(
        0.05, "Share of pictures that may be broken; more end the preparation."
    )
    augmentation: Augmentation = field(Augmentation(), "Random changes in training.")

    def unused_fields(self) -> dict[str, str]:
        if self.decoded == "auto":
            return {}
        return {"decoded_bytes": f"data.decoded is {self.decoded}"}


class Digits(Pictures):
    """The 1,797 handwritten digits of scikit-learn: 8 by 8 pixels, one channel."""

    source: Literal["digits"] = field("digits", "Source of the examples.")
    image_size: ImageSize | None = _image_size(8, "Height and width that pictures are resized to.")


class ImageFolder(Pictures):
    """The user's pictures, in one folder per class."""

    source: Literal["image_folder"] = field("image_folder", "Source of the examples.")
    path: FilePath | None = user_path_field(
        "The folder: CLASS/NAME.jpg, or train/CLASS/NAME.jpg, validation/..., test/....", "a folder"
    )


class TFDSPictures(Pictures):
    """A set of pictures that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds_pictures"] = field("tfds_pictures", "Source of the examples.")
    name: PlainText | None = PREPARED_NAME
    data_dir: FilePath | None = PREPARED_DIR
    image_field: PlainText = field("image", "Feature of the set that is the picture.")
    label_field: PlainText = field(
        "label", "Feature of the set that is the class.", aliases=("label_column", "target")
    )


AnyPictures = Digits | ImageFolder | TFDSPictures
