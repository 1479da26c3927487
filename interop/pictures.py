"""How a model of pictures in a folder expects them, as `preprocessor_config.json` says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interop.fields import Settings
from interop.folder import PREPROCESSOR, Folder
from interop.harmless import OF_PREPROCESSOR, check_fields
from interop.json_fields import JsonFields

IMAGE_SIZE = 224
"""The default of `image_size` in config.json."""

PREPARED = "prepared."
"""Prefix of the names of fields of the section `data`, in what `picture_settings` returns."""

INTERPOLATIONS = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
"""Our `data.interpolation` for each of Pillow's numbers."""

SEEN_WHOLE = 384
"""Pixels of a side from which on ConvNeXt's processor crops nothing, but squeezes."""

SMALLEST_RATIO = 0.1
"""Of `data.crop_ratio`."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Processor:
    """The defaults of an image processor of transformers.

    resample: Pillow's number of the interpolation. squeezes: whether a `size` that is one number is
    that of both sides, not of the short one. crops: whether the middle is cut out. crop_pct: the
    part of a side that is seen; None for processors without the field. mean, std: of the channels.
    """

    resample: int = 3
    squeezes: bool = False
    crops: bool = False
    crop_pct: float | None = None
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)


PROCESSORS = {
    "ViT": Processor(resample=2, squeezes=True),
    "DeiT": Processor(squeezes=True, crops=True),
    "Siglip": Processor(),
    "ConvNext": Processor(crop_pct=224 / 256),
    "CLIP": Processor(crops=True, mean=CLIP_MEAN, std=CLIP_STD),
    "Bit": Processor(crops=True, mean=CLIP_MEAN, std=CLIP_STD),
}
"""The processors by the beginning of their names."""


@dataclass(frozen=True)
class _View:
    """What of a picture is seen. shape: height and width that it gets; None: any."""

    shape: tuple[int, int] | None
    is_squeezed: bool
    crop_ratio: float = 1.0


def picture_settings(
    folder: Folder, found: Settings, processor: str, *, any_size: bool = False
) -> Settings:
    """Return the settings that preprocessor_config.json adds to those of config.json: `pixel_mean`
    and `pixel_std` of the section `model`, fields of the section `data` whose names begin with
    `PREPARED`, and with `any_size` the `image_shape`. Empty if there is no such file.

    found: the settings that config.json gave. processor: the key of `PROCESSORS` for a file that
    does not name one. any_size: whether the model takes any height and width; config.json then
    often has a default that was never used.

    Raises `UsageError` for a field that is unknown, and for what our pictures can't have.
    """
    file = folder.json_file(PREPROCESSOR)
    if file is None:
        return {}
    defaults = _processor(file, processor)
    *shape, channels = found["data.image_shape"]
    view = _view(file, defaults, (shape[0], shape[1]))
    if view.shape is not None and not any_size and view.shape != tuple(shape):
        name = "crop_size" if file.value("crop_size", None) is not None else "size"
        file.reject(name, f"it makes {_by(view.shape)} of pictures, and the model has {_by(shape)}")
    if any_size and not view.is_squeezed and not _crops(file, defaults):
        file.reject("do_center_crop", "it must be true: pictures get one shape")
    resample = _value(file, "resample", defaults.resample)
    if type(resample) is not int or resample not in INTERPOLATIONS:
        file.reject(
            "resample", f"it must be one of Pillow's, {', '.join(map(str, INTERPOLATIONS))}"
        )
    settings = {
        **_pixel_settings(file, defaults),
        f"{PREPARED}crop_ratio": view.crop_ratio,
        f"{PREPARED}resize": "squeeze" if view.is_squeezed else "crop",
        f"{PREPARED}interpolation": INTERPOLATIONS[resample],
    }
    if any_size and view.shape is not None:
        settings["data.image_shape"] = (*view.shape, channels)
    check_fields(file, OF_PREPROCESSOR)
    return settings


def read_image_shape(config: JsonFields) -> Settings:
    """Return `image_shape`, as config.json says."""
    height, width = config.pair("image_size", default=IMAGE_SIZE)
    return {"data.image_shape": (height, width, config.positive_int("num_channels", default=3))}


def write_image_shape(ours: Settings) -> Settings:
    """Return the fields of config.json for `image_shape`: the inverse of `read_image_shape`."""
    height, width, channels = ours["data.image_shape"]
    return {
        "image_size": height if height == width else [height, width],
        "num_channels": channels,
    }


def _processor(file: JsonFields, usual: str) -> Processor:
    """Return the defaults of the processor that a file names, or of the `usual` one."""
    for name in ("image_processor_type", "feature_extractor_type"):
        kind = file.text(name, default=None)
        if kind is not None:
            match = re.fullmatch(r"(\w+?)(ImageProcessor|FeatureExtractor)(Fast|Pil)?", kind)
            if match is None or match[1] not in PROCESSORS:
                names = ", ".join(f"{one}ImageProcessor" for one in PROCESSORS)
                file.reject(name, f"it must be one of {names}")
            return PROCESSORS[match[1]]
    return PROCESSORS[usual]


def _pixel_settings(file: JsonFields, defaults: Processor) -> Settings:
    scaled = "pixels are divided by 255 here, then standardised by model.pixel_mean and pixel_std"
    if not _flag(file, "do_rescale", True):
        file.reject("do_rescale", scaled)
    factor = _value(file, "rescale_factor", 1 / 255)
    if type(factor) not in (int, float) or not abs(255 * factor - 1) <= 1e-3:
        file.reject("rescale_factor", scaled)
    if not _flag(file, "do_normalize", True):
        file.pass_over("image_mean", "image_std")
        return {"pixel_mean": (0.0,), "pixel_std": (1.0,)}
    return {
        "pixel_mean": _per_channel(file, "image_mean", defaults.mean),
        "pixel_std": _per_channel(file, "image_std", defaults.std),
    }


def _view(file: JsonFields, defaults: Processor, usual: tuple[int, int]) -> _View:
    """Return what is seen of a picture. usual: height and width of a model for which the file has
    no size."""
    if not _flag(file, "do_resize", True):
        file.reject("do_resize", "it must be true: pictures get one shape")
    size = _size(file, "size", squeezes=defaults.squeezes)
    squeezes = defaults.squeezes if size is None else isinstance(size, tuple)
    sides = (size, size) if isinstance(size, int) else size
    ratio = 1.0
    if defaults.crop_pct is not None:
        if squeezes:
            file.reject("size", "it must be a number, or have shortest_edge")
        squeezes = (sides or usual)[0] >= SEEN_WHOLE
        share = _value(file, "crop_pct", defaults.crop_pct)
        if type(share) not in (int, float) or not SMALLEST_RATIO <= share <= 1:
            file.reject("crop_pct", f"it must be a number from {SMALLEST_RATIO} to 1")
        if not squeezes:
            ratio = share if sides is None else sides[0] / int(sides[0] / share)
    if not _flag(file, "do_center_crop", defaults.crops):
        file.pass_over("crop_size")
        return _View(sides, squeezes, ratio)
    crop = _size(file, "crop_size", squeezes=True)
    if isinstance(crop, tuple) and sides is not None:
        shares = [part / whole for part, whole in zip(crop, sides, strict=True)]
        ratio *= min(shares)
        if not SMALLEST_RATIO <= ratio <= 1 or (squeezes and shares[0] != shares[1]):
            file.reject("crop_size", f"it must be a part of size, which is {_by(sides)}")
        sides = crop
    return _View(crop if isinstance(crop, tuple) else sides, squeezes, ratio)


def _crops(file: JsonFields, defaults: Processor) -> bool:
    return defaults.crop_pct is not None or _flag(file, "do_center_crop", defaults.crops)


def _size(file: JsonFields, name: str, *, squeezes: bool) -> tuple[int, int] | int | None:
    """Return height and width, or the short side; None if the file does not say. squeezes: whether
    one number is that of both sides."""
    size = file.value(name, None)
    if size is None:
        return None
    if isinstance(size, dict):
        given = {one: side for one, side in size.items() if side is not None}
        size = [given.pop("height", None), given.pop("width", None)]
        if given.keys() == {"shortest_edge"} and size == [None, None]:
            size, squeezes = given.pop("shortest_edge"), False
        size = None if given else size
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and side >= 1 for side in sides):
        file.reject(name, "it must be a number of pixels, height and width, or shortest_edge")
    is_short_side = not squeezes and not isinstance(size, list)
    return sides[0] if is_short_side else (sides[0], sides[1])


def _value(file: JsonFields, name: str, default: Any) -> Any:
    """Return a field; as in transformers, null stands for the default."""
    value = file.value(name, None)
    return default if value is None else value


def _flag(file: JsonFields, name: str, default: bool) -> bool:
    return default if file.value(name, None) is None else file.boolean(name)


def _per_channel(file: JsonFields, name: str, default: tuple[float, ...]) -> tuple[float, ...]:
    """Return the numbers of a field, one if all channels have the same."""
    value = _value(file, name, list(default))
    numbers = value if isinstance(value, list) else [value]
    if any(type(one) not in (int, float) or one < 0 for one in numbers):
        file.reject(name, "it must be numbers >= 0")
    if len(set(numbers)) == 1:
        return (float(numbers[0]),)
    if len(numbers) != 3:
        file.reject(name, "it must be one number, or one for each of three channels")
    return tuple(map(float, numbers))


def _by(sides: Any) -> str:
    return " x ".join(map(str, sides))


def data_fields(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the section `data` among what `picture_settings` returned."""
    return {n.removeprefix(PREPARED): v for n, v in found.items() if n.startswith(PREPARED)}
