"""Decodes and encodes images: uint8 [height, width, channels], 1 channel (grey) or 3 (RGB)."""

import io
import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data.codecs.reasons import reason_of

ImageShape = tuple[int, int, int]
"""Height, width, channels."""

Size = tuple[float, float]
"""Width and height, in Pillow's order."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge of a part of an image, in pixels."""

# Pillow's warning about a large image doesn't name the file. At twice that size Pillow raises an
# error, which `decode_picture` reports.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_SAFE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats of bounded decoding. Pillow has decoders for others that are little used, and one that
runs another program."""

_MODES = {1: "L", 3: "RGB"}
_ORIENTATION = 0x0112  # EXIF
_SPARE = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 if this is at least `_SPARE` x the target size


def decode_picture(
    encoded: bytes,
    shape: ImageShape,
    *,
    crop_ratio: float = 1.0,
    resize: str = "crop",
    interpolation: str = "bicubic",
    choose: Callable[[Size], Box] | None = None,
    most_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Decode an image (PNG, JPEG, ...), crop it and resize it to `shape`.

    choose: a function from the image's size to the box to crop. The default is the crop for
        evaluation: the largest centered box with the aspect ratio of `shape`, its sides multiplied
        by `crop_ratio`.
    resize: "squeeze" if that box has the aspect ratio of the image instead, and is distorted.
    interpolation: one of Pillow's, such as "bilinear".
    most_pixels: an image with more is refused before it is decoded, and so is one of a rare
        format.

    If the file has several frames, the first is used. The EXIF orientation is applied. Transparent
    pixels are put on white. Values of more than 8 bits keep their upper 8. Raises ValueError if the
    image can't be decoded. If `most_pixels` is given, MemoryError is raised if there is not
    enough memory.
    """
    height, width, channels = shape
    target = (width, height) if resize == "crop" else None
    choose = choose or (lambda size: middle(size, target or size, crop_ratio))
    try:
        with _opened(encoded, most_pixels) as file:
            if file.format in ("JPEG", "MPO"):
                size = _upright_size(file)
                box = choose(size)
                _shrink(file, min((box[2] - box[0]) / width, (box[3] - box[1]) / height))
                picture = ImageOps.exif_transpose(file)
            else:
                picture = ImageOps.exif_transpose(file)
                size = picture.size
                box = choose(size)
            picture = _eight_bits(picture).convert(_MODES[channels])
    except Exception as error:  # Pillow raises nearly any exception for broken files
        if isinstance(error, MemoryError) and most_pixels is not None:
            raise
        raise _no_picture(encoded, error) from error
    if picture.size != size:
        across, down = picture.width / size[0], picture.height / size[1]
        box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    box = (*box[:2], min(box[2], picture.width), min(box[3], picture.height))
    if picture.size != (width, height) or box != (0, 0, width, height):
        method = Image.Resampling[interpolation.upper()]
        picture = picture.resize((width, height), method, box)
    return np.asarray(picture, np.uint8).reshape(shape)


def middle(size: Size, target: Size, ratio: float = 1.0) -> Box:
    """Return the largest centered box with the aspect ratio of `target`, scaled by `ratio`."""
    scale = ratio * min(size[0] / target[0], size[1] / target[1])
    width, height = min(target[0] * scale, size[0]), min(target[1] * scale, size[1])
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return (left, top, left + width, top + height)


def picture_size(encoded: bytes) -> tuple[int, int]:
    """Return the width and height of an encoded image; raises ValueError if it can't be read."""
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            return _upright_size(file)
    except Exception as error:
        raise _no_picture(encoded, error) from error


def encode_picture(picture: NDArray[np.uint8], form: str = "png") -> bytes:
    """Encode `picture`, uint8 [height, width, channels], as an image file.

    form: the name of a Pillow format, such as "png", or "ppm" for an uncompressed PGM or PPM file.
    """
    file = io.BytesIO()
    to_pillow(picture).save(file, form)
    return file.getvalue()


def to_pillow(picture: NDArray[np.uint8]) -> Image.Image:
    """Convert `picture`, uint8 [height, width, channels], to a Pillow image."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _opened(encoded: bytes, most_pixels: int | None) -> Image.Image:
    """Read the header of an image. Raises ValueError for more than `most_pixels`."""
    if most_pixels is None:
        return Image.open(io.BytesIO(encoded))
    file = Image.open(io.BytesIO(encoded), formats=_SAFE_FORMATS)
    if file.width * file.height > most_pixels:
        raise ValueError(
            f"it has {file.width} x {file.height} pixels, and at most {most_pixels} are decoded"
        )
    return file


def _no_picture(encoded: bytes, error: Exception) -> ValueError:
    reason = reason_of(error)
    if isinstance(error, UnidentifiedImageError):
        reason = "it is of no format that is known" if encoded else "it is empty"
    return ValueError(f"no picture that can be decoded: {reason}")


def _upright_size(file: Image.Image) -> tuple[int, int]:
    """Return the width and height of an image after the EXIF rotation."""
    lies = file.format != "TIFF" and file.getexif().get(_ORIENTATION, 1) >= 5
    return (file.height, file.width) if lies else file.size


def _shrink(file: Image.Image, times: float) -> None:
    """Let Pillow decode a JPEG at reduced size. times: the factor by which it is shrunk in all."""
    times = max(times / _SPARE, 1.0)
    file.draft(None, (int(file.width / times), int(file.height / times)))


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Prepare an image for conversion to 8 bits: 16-bit values keep their upper 8 bits, and
    transparent pixels are put on white. Raises ValueError for floating-point pixels."""
    if picture.mode.startswith("I"):
        wide = np.clip(np.asarray(picture).astype(np.int64), 0, 2**16 - 1)
        return Image.fromarray((wide >> 8).astype(np.uint8))
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture.convert("RGBA"))
    return picture
