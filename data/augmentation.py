"""Random augmentation of training images. Each example has its own random generator.

Images are uint8 [H, W, C]; `settings` is `config.data.augmentation`. The augmentations are
applied in this order: crop, flip, RandAugment, color jitter, random erasing.
"""

import math
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from data.codecs.pictures import Box, Size, middle, to_pillow

Pixels = NDArray[np.uint8]

_ATTEMPTS = 10
_GREY = 128  # fills the area that a shifted, sheared or rotated image leaves empty
_ERASED_AREA, _ERASED_ASPECT = (0.02, 1 / 3), 10 / 3  # as in Zhong et al.


def generator(seed: int, example: int) -> Generator:
    """Return the random generator of an example, the same in every process.

    seed: the seed of the run.
    example: the example's number in the training stream, which is different in every epoch.
    """
    return np.random.Generator(np.random.Philox(key=np.array([seed, example], np.uint64)))


def is_on(settings: Any) -> bool:
    """Return whether any augmentation is on, that is, whether `settings` are not the defaults."""
    return settings != type(settings)()


def random_box(size: Size, target: Size, random: Generator, settings: Any) -> Box:
    """Return a random box for a random-resized crop of an image (Szegedy et al., 2015).

    size: width and height of the image.
    target: width and height after resizing.

    The box's share of the image's area is uniform in [`crop_smallest_area`, 1]. The logarithm of
    its aspect ratio is uniform in [-a, a], where a is the logarithm of `crop_largest_aspect`. If
    none of ten random boxes fits into the image, return the largest centered box with the aspect
    ratio of `target`.
    """
    width, height = size
    aspects = math.log(settings.crop_largest_aspect)
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(settings.crop_smallest_area, 1.0)
        aspect = math.exp(random.uniform(-aspects, aspects))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return (left, top, left + across, top + down)
    return middle(size, target)


def augment(picture: Pixels, random: Generator, settings: Any) -> Pixels:
    """Return `picture` with all augmentations applied except the random-resized crop.

    That crop is done earlier, when the image is decoded.
    """
    if settings.crop == "padded":
        picture = _padded_crop(picture, random, settings.crop_padding)
    if random.random() < settings.flip_probability:
        picture = picture[:, ::-1]
    jitter = settings.brightness or settings.contrast or settings.saturation
    if settings.randaugment_layers or jitter:
        image = to_pillow(np.ascontiguousarray(picture))
        for _ in range(settings.randaugment_layers):
            image = _randaugment(image, random, settings.randaugment_magnitude / 10)
        if jitter:
            image = _jitter(image, random, settings)
        picture = np.asarray(image).reshape(picture.shape)
    if random.random() < settings.erasing_probability:
        picture = _erase(picture, random)
    return picture


def _padded_crop(picture: Pixels, random: Generator, padding: int) -> Pixels:
    """Pad with zeros, and cut a random crop of the original size."""
    height, width, _ = picture.shape
    top, left = random.integers(0, 2 * padding + 1, 2)
    padded = np.pad(picture, ((padding, padding), (padding, padding), (0, 0)))
    return padded[top : top + height, left : left + width]


def _jitter(image: Image.Image, random: Generator, settings: Any) -> Image.Image:
    for enhancer, strength in (
        (ImageEnhance.Brightness, settings.brightness),
        (ImageEnhance.Contrast, settings.contrast),
        (ImageEnhance.Color, settings.saturation),
    ):
        if strength:
            image = enhancer(image).enhance(random.uniform(1 - strength, 1 + strength))
    return image


def _erase(picture: Pixels, random: Generator) -> Pixels:
    """Replace a random rectangle with noise (Zhong et al., 2020, arXiv:1708.04896).

    Nothing changes if none of ten random rectangles fits into the image.
    """
    height, width, channels = picture.shape
    for _ in range(_ATTEMPTS):
        area = height * width * random.uniform(*_ERASED_AREA)
        aspect = math.exp(random.uniform(-1, 1) * math.log(_ERASED_ASPECT))
        down, across = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < down < height and 0 < across < width:
            top, left = random.integers(0, height - down), random.integers(0, width - across)
            picture = picture.copy()
            noise = random.integers(0, 256, (down, across, channels), np.uint8)
            picture[top : top + down, left : left + across] = noise
            break
    return picture


def _randaugment(image: Image.Image, random: Generator, strength: float) -> Image.Image:
    """Apply one of the fourteen operations of RandAugment (Cubuk et al., 2019, arXiv:1909.13719).

    The operation is chosen at random. `strength`, from 0 to 1, is how much it changes the image;
    some operations have no strength. Rotations, shears and shifts take a random direction. Changes
    of color, contrast, brightness and sharpness are a random increase or decrease.
    """
    operation = random.integers(14)
    signed = strength * (1 if random.random() < 0.5 else -1)
    match operation:
        case 0:
            return image
        case 1:
            return ImageOps.autocontrast(image)
        case 2:
            return ImageOps.equalize(image)
        case 3:
            return ImageOps.posterize(image, 8 - round(4 * strength))
        case 4:
            return ImageOps.solarize(image, round(256 * (1 - strength)))
        case 5:
            return ImageEnhance.Color(image).enhance(1 + 0.9 * signed)
        case 6:
            return ImageEnhance.Contrast(image).enhance(1 + 0.9 * signed)
        case 7:
            return ImageEnhance.Brightness(image).enhance(1 + 0.9 * signed)
        case 8:
            return ImageEnhance.Sharpness(image).enhance(1 + 0.9 * signed)
        case 9:
            grey = _GREY if image.mode == "L" else (_GREY,) * 3
            return image.rotate(30 * signed, Image.Resampling.BILINEAR, fillcolor=grey)
        case 10:
            return _move(image, (1, 0.3 * signed, 0, 0, 1, 0))
        case 11:
            return _move(image, (1, 0, 0, 0.3 * signed, 1, 0))
        case 12:
            return _move(image, (1, 0, 0.45 * signed * image.width, 0, 1, 0))
        case _:
            return _move(image, (1, 0, 0, 0, 1, 0.45 * signed * image.height))


def _move(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Apply an affine map to `image`: (x, y) gets the pixel at (a x + b y + c, d x + e y + f)."""
    grey = _GREY if image.mode == "L" else (_GREY,) * 3
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=grey
    )
