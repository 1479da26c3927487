"""Decodes and encodes images: uint8 [height, width, channels], 1 channel (grey) or 3 (RGB)."""

import io
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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
# Nor do those about EXIF data, which is used only if it is whole.
warnings.filterwarnings("ignore", "Corrupt EXIF data|Metadata Warning", module="PIL")

_SAFE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats of bounded decoding. Pillow has decoders for others that are little used, and one that
runs another program."""

_MODES = {1: "L", 3: "RGB"}
_SPARE = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 if this is at least `_SPARE` x the target size

_ORIENTATION = 0x0112  # EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition for each EXIF orientation that needs one."""

_PNG = b"\x89PNG\r\n\x1a\n"
_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG: texts and the colour profile
_TURNING = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts with an orientation
_MOST_TEXT = 2**20  # bytes, decompressed; Pillow refuses an image with a longer text

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _MOST_VALUES = 258, 262, 339, (281, 341)  # tags of a TIFF
_GUESSES = [2**bits - 1 for bits in range(8, 33, 4)]  # values of white


def decode_picture(
    encoded: bytes,
    shape: ImageShape,
    *,
    crop_ratio: float = 1.0,
    resize: str = "crop",
    interpolation: str = "bicubic",
    choose: Callable[[Size], Box] | None = None,
    max_value: float | None = None,
    most_pixels: int | None = None,
    notes: list[str] | None = None,
) -> NDArray[np.uint8]:
    """Decode an image (PNG, JPEG, ...), crop it and resize it to `shape`.

    choose: a function from the image's size to the box to crop. The default is the crop for
        evaluation: the largest centered box with the aspect ratio of `shape`, its sides multiplied
        by `crop_ratio`.
    max_value: the value of white in grey images with more than 8 bits; None: see `_white`.
    resize: "squeeze" if that box has the aspect ratio of the image instead, and is distorted.
    interpolation: one of Pillow's, such as "bilinear".
    most_pixels: an image with more is refused before it is decoded, and so is one of a rare
        format.
    notes: a list that gets a text for all that is guessed or lost, such as "have negative values,
        which become black".

    If the file has several frames, the first is used. The EXIF orientation is applied if it is
    valid. Transparent pixels are put on white. Values of more than 8 bits are scaled to 8. Texts
    and colour profiles are ignored. Raises ValueError if the image can't be decoded. If
    `most_pixels` is given, MemoryError is raised if there is not enough memory.
    """
    height, width, channels = shape
    target = (width, height) if resize == "crop" else None
    choose = choose or (lambda size: middle(size, target or size, crop_ratio))
    notes = [] if notes is None else notes
    try:
        with _opened(encoded, most_pixels) as file:
            is_wide = any(";16" in str(tile) for tile in getattr(file, "tile", ()))
            orientation = _orientation(file)
            if file.format in ("JPEG", "MPO"):
                size = _upright_size(file, orientation)
                box = choose(size)
                _shrink(file, min((box[2] - box[0]) / width, (box[3] - box[1]) / height))
                file.load()
            else:
                file.load()
                size = _upright_size(file, orientation)
                box = choose(size)
            picture = _eight_bits(file, is_wide, max_value, notes).convert(_MODES[channels])
            if orientation in _TURNS:
                picture = picture.transpose(_TURNS[orientation])
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
        with _opened(encoded, None) as file:
            return _upright_size(file, _orientation(file))
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
    content = io.BytesIO(_without_notes(encoded))
    file = Image.open(content, formats=None if most_pixels is None else _SAFE_FORMATS)
    if most_pixels is not None and file.width * file.height > most_pixels:
        raise ValueError(
            f"it has {file.width} x {file.height} pixels, and at most {most_pixels} are decoded"
        )
    clear = file.info.get("transparency")
    if clear is not None and encoded.startswith(_PNG):
        # Pillow scales the pixels to 8 bits, but not the transparent value.
        depth = encoded[24]
        if file.mode == "L" and depth < 8:
            file.info["transparency"] = clear * 255 // (2**depth - 1)
        if file.mode == "RGB" and depth == 16:
            file.info["transparency"] = tuple(value >> 8 for value in clear)
    return file


def _without_notes(encoded: bytes) -> bytes:
    """Return a PNG without its colour profile and its texts, which may have any length; a short
    text that may hold the orientation stays. Other formats are returned unchanged."""
    if not encoded.startswith(_PNG):
        return encoded
    place, kept = len(_PNG), [_PNG]
    while place < len(encoded):
        end = place + 12 + int.from_bytes(encoded[place : place + 4], "big")
        if encoded[place + 4 : place + 8] not in _NOTES or _may_turn(encoded[place + 8 : end - 4]):
            kept.append(encoded[place:end])
        place = end
    return b"".join(kept)


def _may_turn(text: bytes) -> bool:
    """Return whether a text chunk may hold the orientation, and is short enough for Pillow."""
    if not text.startswith(_TURNING):
        return False
    packed = text.partition(b"\0")[2]
    if packed.startswith(b"\1"):  # a compressed iTXt
        packed = packed.split(b"\0", 3)[-1]
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed.removeprefix(b"\0"), _MOST_TEXT)
    except zlib.error:  # it is not compressed
        return len(text) <= _MOST_TEXT
    return not unpacker.unconsumed_tail


def _no_picture(encoded: bytes, error: Exception) -> ValueError:
    reason = reason_of(error)
    if isinstance(error, UnidentifiedImageError):
        reason = "it is of no format that is known" if encoded else "it is empty"
    return ValueError(f"no picture that can be decoded: {reason}")


def _orientation(file: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if the file has none that is valid.

    The pixels of a PNG are decoded, because its EXIF data may come after them.
    """
    if file.format == "TIFF":  # turned by Pillow
        return 1
    if file.format == "PNG":
        file.load()
    try:
        found = file.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data, of a picture that may be whole
        return 1
    return found if isinstance(found, int) and found in range(1, 9) else 1


def _upright_size(file: Image.Image, orientation: int) -> tuple[int, int]:
    """Return the width and height of an image after the EXIF rotation."""
    return (file.height, file.width) if orientation >= 5 else file.size


def _shrink(file: Image.Image, times: float) -> None:
    """Let Pillow decode a JPEG at reduced size. times: the factor by which it is shrunk in all."""
    times = max(times / _SPARE, 1.0)
    file.draft(None, (int(file.width / times), int(file.height / times)))


def _eight_bits(
    file: Image.Image, is_wide: bool, max_value: float | None, notes: list[str]
) -> Image.Image:
    """Prepare an image for conversion to 8 bits: grey values of more bits are scaled, and
    transparent pixels are put on white. Raises ValueError for floating-point pixels without
    `max_value`.

    is_wide: whether a value has 16 bits in the file. Pillow keeps the upper 8 bits of colours.
    max_value, notes: as in `decode_picture`.
    """
    if file.mode.startswith("I") or file.mode == "F":
        return Image.fromarray(_levels(file, max_value, notes))
    if is_wide and file.mode.startswith("RGB") and 0 < np.asarray(file)[..., :3].max() < 16:
        notes.append(
            "have colours of 16 bits that use only the lowest 12, and become nearly black: store "
            "them with 8 bits"
        )
    if file.has_transparency_data:
        white = Image.new("RGBA", file.size, "white")
        return Image.alpha_composite(white, file.convert("RGBA"))
    return file


def _levels(file: Image.Image, max_value: float | None, notes: list[str]) -> NDArray[np.uint8]:
    """Return the pixels of a grey image with more than 8 bits, scaled to 0 (black) to 255 (white),
    uint8 [height, width]."""
    values = np.asarray(file)
    is_float = values.dtype.kind == "f"
    if is_float and max_value is None:
        raise ValueError(
            "its pixels are floating-point numbers: data.max_value must be that of white"
        )
    if file.format == "TIFF" and values.dtype == np.int32 and 2 not in _tag(file, _SAMPLE_FORMAT):
        values = values.view(np.uint32)
    if values.min(initial=0) < 0:
        notes.append("have negative values, which become black")
    white = _white(file, values, notes) if max_value is None else max_value
    scaled = np.nan_to_num(values * (256 / (white if is_float else white + 1)))
    levels = np.clip(scaled, 0, 255).astype(np.uint8)
    if file.format == "TIFF" and 0 in _tag(file, _PHOTOMETRIC):  # 0 is white
        levels = 255 - levels
    if (clear := file.info.get("transparency")) is not None:
        levels[values == clear] = 255
    return levels


def _white(file: Image.Image, values: NDArray[Any], notes: list[str]) -> int:
    """Return the value of white in a grey image with more than 8 bits.

    It is what the file says, in a PGM or in the tags of a TIFF, or the largest value of 16 bits.
    But if no pixel has more than 12 bits, or pixels have 32, it is guessed: the largest value of
    the fewest of 8, 12, 16, 20, ..., 32 bits that hold all pixels. A guess is added to `notes`.
    """
    highest = int(values.max(initial=0))
    for tag in _MOST_VALUES:
        if stated := [int(most) for most in _tag(file, tag) if most >= highest > 0]:
            return stated[0]
    if file.format == "PPM":  # Pillow scales its values
        return 2**16 - 1
    if _tag(file, _BITS) == (12,):
        return 2**12 - 1
    white = next(guess for guess in _GUESSES if guess >= highest)
    if highest and (values.dtype.itemsize > 2 or white < 2**16 - 1):
        notes.append(
            "have values of more than 8 bits, and do not say which one is white: it is taken to be "
            f"{white}, as none is larger (data.max_value={white} would say so)"
        )
    return white


def _tag(file: Image.Image, number: int) -> tuple[Any, ...]:
    """Return the values of a tag of a TIFF; () if it has none, or is of another format."""
    found = getattr(file, "tag_v2", {}).get(number, ())
    return found if isinstance(found, tuple) else (found,)
