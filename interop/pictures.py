"""How a model of pictures in a folder expects them, as `preprocessor_config.json` says."""

from typing import Any

from interop.fields import Settings
from interop.folder import Folder
from interop.json_fields import JsonFields

PREPROCESSOR = "preprocessor_config.json"

IMAGE_SIZE = 224
"""The default of `image_size` in config.json."""


def pixel_settings(folder: Folder) -> Settings:
    """Return `pixel_mean` and `pixel_std` of the section `model`, as far as the folder says.

    Raises `UsageError` if its pixels are not divided by 255.
    """
    file = folder.json_file(PREPROCESSOR)
    if file is None:
        return {}
    scaled = "pixels are divided by 255 here, then standardised by model.pixel_mean and pixel_std"
    if not file.boolean("do_rescale", default=True):
        file.reject("do_rescale", scaled)
    if abs(255 * file.positive_float("rescale_factor", default=1 / 255) - 1) > 1e-3:
        file.reject("rescale_factor", scaled)
    if not file.boolean("do_normalize", default=True):
        return {"pixel_mean": (0.0,), "pixel_std": (1.0,)}
    names = {"pixel_mean": "image_mean", "pixel_std": "image_std"}
    return {ours: _per_channel(file, theirs) for ours, theirs in names.items() if theirs in file}


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


def prepared_image_shape(folder: Folder, found: Settings) -> Settings:
    """Return `image_shape` with the height and width of preprocessor_config.json, if it has them.

    For models that take any height and width: config.json then often has a default that was never
    used. found: the settings that config.json gave.
    """
    file = folder.json_file(PREPROCESSOR)
    shape = found["data.image_shape"]
    for name in ("crop_size", "size"):
        size = file.value(name, None) if file is not None else None
        if isinstance(size, dict):
            edge = size.get("shortest_edge")
            size = [size.get("height", edge), size.get("width", edge)]
        sides = size if isinstance(size, list) else [size, size]
        if len(sides) == 2 and all(type(side) is int and side >= 1 for side in sides):
            return {"data.image_shape": (*sides, shape[2])}
    return {}


def _per_channel(file: JsonFields, name: str) -> tuple[float, ...]:
    """Return the numbers of a field, one if all channels have the same."""
    value: Any = file.value(name)
    numbers = value if isinstance(value, list) else [value]
    if any(type(one) not in (int, float) or one < 0 for one in numbers):
        file.reject(name, "it must be numbers >= 0")
    if len(set(numbers)) == 1:
        return (float(numbers[0]),)
    if len(numbers) != 3:
        file.reject(name, "it must be one number, or one for each of three channels")
    return tuple(map(float, numbers))
