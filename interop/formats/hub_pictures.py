"""Writes how transformers prepares a picture for a model: as our commands do."""

from typing import Any

from interop.formats.source import Source

PREPROCESSOR = "preprocessor_config.json"

BICUBIC = 3
"""Pillow's number of the interpolation."""


def preprocessor(source: Source, pixels: tuple[float, float]) -> dict[str, Any]:
    """Return preprocessor_config.json: the short side is resized, the middle is cut out, and the
    values are normalised.

    Our commands cut first and resize then, in one step. So the results may differ by rounding,
    unless the picture has the size of the model.

    pixels: the mean and standard deviation of the values 0..1.
    """
    height, width, _ = source.data_spec.require("image_shape")
    data: Any = source.config.data  # pictures have a crop ratio
    mean, deviation = pixels
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(min(height, width) / data.crop_ratio)},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean] * 3,
        "image_std": [deviation] * 3,
        "do_convert_rgb": True,
    }
