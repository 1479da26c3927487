"""Pictures as arrays: uint8 [height, width, channels], 1 channel of grey or 3 of colours."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_MODES = {1: "L", 3: "RGB"}


def decode_picture(encoded: bytes, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture in `encoded` (PNG, JPEG, ...), resized to `shape` (height, width, channels).

    Raises ValueError where it is no picture.
    """
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            picture = file.convert(_MODES[channels])
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"no picture that can be decoded: {error}") from error
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8).reshape(shape)


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """`picture`, uint8 [height, width, channels], as a PNG file."""
    mode = _MODES[picture.shape[-1]]
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if mode == "L" else picture, mode).save(file, "png")
    return file.getvalue()
