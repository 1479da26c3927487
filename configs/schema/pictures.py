"""Data sources of labelled images, and the augmentation of images."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from configs.schema.settings import (
    Count,
    FilePath,
    Fraction,
    PlainText,
    Probability,
    Settings,
    field,
)
from configs.schema.source import PreparedSet, Shards, Source, UserFiles

ImageSize = Annotated[int, Interval(ge=4, le=1024)]


class Augmentation(Settings):
    """Random augmentation of training images, drawn anew at each read. Off by default."""

    crop: Literal["none", "padded", "random_resized"] = field(
        "none",
        "Crop of a picture. none: as in evaluation; padded: at a random position after zero "
        "padding; random_resized: of random area and aspect ratio, resized.",
        aliases=("random_crop", "random_resized_crop", "inception_crop"),
    )
    crop_padding: Count = field(
        4,
        "Width of the zero padding on each side for the padded crop.",
        unit="pixels",
        aliases=("pad",),
    )
    crop_smallest_area: Annotated[float, Interval(ge=0.001, le=1.0)] = field(
        0.08,
        "Smallest area of a random-resized crop, as a share of the picture's area.",
        aliases=("scale", "crop_scale", "min_area"),
    )
    crop_largest_aspect: Annotated[float, Interval(ge=1.0, le=10.0)] = field(
        4 / 3,
        "Largest aspect ratio (longer to shorter side) of a random-resized crop.",
        aliases=("ratio", "aspect_ratio", "crop_ratio"),
    )
    flip_probability: Probability = field(
        0.0,
        "Probability that a picture is flipped horizontally.",
        aliases=("hflip", "horizontal_flip"),
    )
    brightness: Probability = field(
        0.0,
        "Strength s of colour jitter: brightness is scaled by a random factor from 1 - s to 1 + s.",
        aliases=("color_jitter",),
    )
    contrast: Probability = field(0.0, "Strength of colour jitter for contrast, as for brightness.")
    saturation: Probability = field(
        0.0, "Strength of colour jitter for saturation, as for brightness."
    )
    randaugment_layers: Annotated[int, Interval(ge=0, le=10)] = field(
        0,
        "Number of RandAugment operations per picture; 0: none.",
        aliases=("randaug", "rand_augment", "num_ops", "auto_augment"),
    )
    randaugment_magnitude: Annotated[float, Interval(ge=0.0, le=10.0)] = field(
        10.0, "Strength of each RandAugment operation.", aliases=("magnitude",)
    )
    erasing_probability: Probability = field(
        0.0,
        "Probability that a random rectangle is replaced by noise.",
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


class Pictures(Source):
    """Base class of data sources of images."""

    modality: ClassVar = "pictures"
    may_break: ClassVar = True

    image_size: ImageSize | None = field(
        None,
        "Height and width that pictures are resized to; none: the original size if all pictures "
        "have the same size of up to 64 pixels, else 224.",
        unit="pixels",
        aliases=("resolution", "img_size"),
    )
    channels: Literal[1, 3] | None = field(
        None,
        "Number of channels: 1 for grey, 3 for colour; none: as in the data set, or 3 for a "
        "folder.",
        aliases=("num_channels", "in_channels", "in_chans"),
    )
    crop_ratio: Annotated[float, Interval(ge=0.1, le=1.0)] = field(
        1.0,
        "Size of the central crop in evaluation, relative to the largest central crop that fits.",
        aliases=("crop_pct", "center_crop", "centre_crop"),
    )
    max_value: Annotated[float, Interval(gt=0.0, le=1e10)] | None = field(
        None,
        "Value of white in grey pictures with more than 8 bits; none: what the file says, or a "
        "guess from its largest value, with a warning.",
        aliases=("maxval", "value_range", "data_range"),
    )
    resize: Literal["crop", "squeeze"] = field(
        "crop",
        "What evaluation sees of a picture with another shape than the model's. crop: the middle, "
        "undistorted; squeeze: all of it, distorted.",
        aliases=("resize_mode", "crop_mode"),
    )
    interpolation: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = field(
        "bicubic",
        "How pixels are interpolated when pictures are resized, as in Pillow.",
        aliases=("resample",),
    )
    decoded: Literal["auto", "arrays", "files"] = field(
        "auto",
        "How prepared pictures are stored. arrays: decoded pixels; files: encoded, and decoded at "
        "each read; auto: arrays if they fit in data.decoded_bytes.",
        aliases=("cache_images", "in_memory"),
    )
    decoded_bytes: Count = field(
        2**31 - 1,
        "Largest total size of the decoded pixels for which data.decoded=auto stores arrays.",
        unit="bytes",
    )
    broken_fraction: Fraction = field(
        0.05, "Largest share of pictures that may be unreadable; with more, data preparation fails."
    )
    augmentation: Augmentation = field(Augmentation(), "Random augmentation of training pictures.")

    @property
    def view(self) -> dict[str, Any]:
        """Return what of a picture evaluation sees, as arguments of `decode_picture`."""
        names = ("crop_ratio", "resize", "interpolation", "max_value")
        return {name: getattr(self, name) for name in names}

    def unused_fields(self) -> dict[str, str]:
        if self.decoded == "auto":
            return {}
        return {"decoded_bytes": f"data.decoded is {self.decoded}"}


class Digits(Pictures):
    """The 1,797 handwritten digits of scikit-learn: 8 by 8 pixels, one channel."""

    source: Literal["digits"] = "digits"
    image_size: ImageSize | None = field(8, "Height and width that pictures are resized to.")


class ImageFolder(UserFiles, Pictures):
    """The user's images, in a folder per class."""

    source: Literal["image_folder"] = "image_folder"
    path: FilePath | None = field(
        meaning="Folder with files CLASS/NAME.jpg, or train/CLASS/NAME.jpg, validation/..., "
        "test/....",
        accepts="a folder",
    )

    def missing_path(self) -> str:
        return "say where the pictures are, --config.data.path=FOLDER with a folder for each class"


class PictureFields(Settings):
    """The fields of sources whose picture and class are in fields."""

    image_field: PlainText = field("image", "Feature of the data set that contains the picture.")
    label_field: PlainText = field("label", "Feature of the data set that contains the class.")


class TFDSPictures(PictureFields, PreparedSet, Pictures):
    """An image data set that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds_pictures"] = "tfds_pictures"


class WebDatasetPictures(PictureFields, Shards, Pictures):
    """WebDataset's shards with labelled images."""

    source: Literal["webdataset_pictures"] = "webdataset_pictures"
    image_field: PlainText = field(
        "jpg;jpeg;png;webp",
        "Field of a sample that contains the picture. Of several names, separated by semicolons, "
        "the first that the sample has.",
    )
    label_field: PlainText = field("cls", "Field of a sample that contains the class.")


AnyPictures = Digits | ImageFolder | TFDSPictures | WebDatasetPictures
