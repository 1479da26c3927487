"""Writes how transformers prepares a picture for a model: as our commands do."""

from collections.abc import Sequence
from typing import Any

from interop.formats.source import Source
from interop.pictures import INTERPOLATIONS


def preprocessor(source: Source) -> dict[str, Any]:
    """Return preprocessor_config.json: the short side (or, with `data.resize=squeeze`, both) is
    resized, the middle is cut out, and the values are normalised.

    Our commands cut first and resize then, in one step. So the results may differ by rounding,
    unless the picture has the size of the model.
    """
    height, width, _ = source.data_spec.require("image_shape")
    data: Any = source.config.data  # pictures have a crop ratio
    model: Any = source.config.model  # architectures with a family standardise pixels
    size = {"shortest_edge": round(min(height, width) / data.crop_ratio)}
    if data.resize == "squeeze":
        sides = {"height": height, "width": width}
        size = {name: round(side / data.crop_ratio) for name, side in sides.items()}
    numbers = {name: number for number, name in INTERPOLATIONS.items()}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": numbers[data.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": _per_channel(model.pixel_mean),
        "image_std": _per_channel(model.pixel_std),
        "do_convert_rgb": True,
    }


def _per_channel(numbers: Sequence[float]) -> list[float]:
    """Return a number for each of three channels, given those or one for all."""
    return list(numbers) * 3 if len(numbers) == 1 else list(numbers)
