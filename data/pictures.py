"""Prepares labelled images as records: decoded pixels, or files that are decoded for each batch.

Both give the same batches, except in training with random-resized crops. Such a crop is taken from
the whole image, not from the evaluation crop. So the pixels of the whole image are stored, and
a large image is reduced first: its short side to 8/7 of the target size (if `data.crop_ratio` is
below 7/8, to the target size divided by it). `data.decoded=auto` never reduces images; it stores
the files instead.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from data.augmentation import augment, generator, is_on, random_box
from data.codecs.pictures import ImageShape, decode_picture, encode_picture, picture_size
from data.dataset import ExampleCodec, Split
from data.driver import NO_CONTENT, Part, Preparation, content_hash
from data.length_buckets import Lengths
from data.progress import Progress, delayed, in_blocks

VERSION = 4
"""Part of the cache key. Increment it when this file makes different examples."""

LARGE = 224  # default pixels per side, unless all images have the same small size
SMALL = 64  # largest side of a small size, in pixels
_KEPT = 7 / 8  # target size / stored short side, at most
_AT_ONCE = 64
_BROKEN = -1  # the label of rows with weight 0
_LABEL_BYTES = 4


@dataclass(frozen=True)
class PixelCodec(ExampleCodec):
    """Stores images as pixels, and makes batches of them.

    shape: height, width and channels.
    augmentation: `config.data.augmentation`.
    """

    shape: ImageShape
    augmentation: Any

    @property
    def is_augmented(self) -> bool:
        return is_on(self.augmentation)

    is_expensive = is_augmented

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a record: the pixels of an image, and its label."""
        return np.dtype([("image", "u1", self.shape), ("label", "<i4")])

    def broken_record(self) -> Any:
        """Return the placeholder that is stored for a broken image."""
        return np.zeros(self.shape, np.uint8), _BROKEN

    def batch(self, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `image` uint8 [B, H, W, C], `label` int32 [B], `weights` float32 [B] (0:
        broken)."""
        return _batch(np.array(pictures["image"], order="C"), pictures["label"].astype(np.int32))

    def augmented_batch(
        self, pictures: NDArray[Any], seed: int, examples: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        batch = self.batch(pictures)
        images = batch["image"]
        for row in np.flatnonzero(batch["weights"]):
            random = generator(seed, examples[row])
            images[row] = augment(images[row], random, self.augmentation)
        return batch


@dataclass(frozen=True)
class ImageFileCodec(ExampleCodec):
    """Stores images as image files, and decodes them to make batches.

    A record is the label (int32, little endian), then the bytes of the file.

    shape: height, width and channels after decoding.
    crop_ratio, augmentation, resize, interpolation, max_value: as in `config.data`.
    """

    shape: ImageShape
    crop_ratio: float
    augmentation: Any
    resize: str = "crop"
    interpolation: str = "bicubic"
    max_value: float | None = None
    dtype = np.dtype(object)
    is_expensive = True

    @property
    def is_augmented(self) -> bool:
        return is_on(self.augmentation)

    def broken_record(self) -> bytes:
        """Return the placeholder that is stored for a broken image."""
        return _label_bytes(_BROKEN)

    def batch(self, files: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return `image` uint8 [B, H, W, C], `label` int32 [B], `weights` float32 [B] (0:
        broken)."""
        return self._decode(files, itertools.repeat(None))

    def augmented_batch(
        self, files: NDArray[Any], seed: int, examples: NDArray[np.int64]
    ) -> dict[str, NDArray[Any]]:
        return self._decode(files, (generator(seed, example) for example in examples))

    def _decode(
        self, files: NDArray[Any], randoms: Iterable[np.random.Generator | None]
    ) -> dict[str, NDArray[Any]]:
        images = np.zeros((len(files), *self.shape), np.uint8)
        labels = np.full(len(files), _BROKEN, np.int32)
        for row, (file, random) in enumerate(zip(files, randoms, strict=False)):
            if isinstance(file, bytes):
                labels[row] = int.from_bytes(file[:_LABEL_BYTES], "little", signed=True)
            if labels[row] != _BROKEN:
                images[row] = self._picture(file[_LABEL_BYTES:], random)
        return _batch(images, labels)

    def _picture(self, file: bytes, random: np.random.Generator | None) -> NDArray[np.uint8]:
        names = ("crop_ratio", "resize", "interpolation", "max_value")
        view = {name: getattr(self, name) for name in names}
        choose = None
        if random is not None and self.augmentation.crop == "random_resized":
            target = self.shape[1::-1]
            choose = lambda size: random_box(size, target, random, self.augmentation)  # noqa: E731
        picture = decode_picture(file, self.shape, choose=choose, **view)
        return picture if random is None else augment(picture, random, self.augmentation)


def _batch(images: NDArray[np.uint8], labels: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
    whole = labels != _BROKEN
    return {
        "image": images,
        "label": np.where(whole, labels, 0).astype(np.int32),
        "weights": whole.astype(np.float32),
    }


class PicturePreparation(Preparation):
    """Prepares labelled images. A raw example has an encoded `image`, a `label` (-1: none), and
    optionally a `name` and a `path` (for error messages)."""

    things = "pictures"
    layout = 3

    def key(self) -> dict[str, Any]:
        pixels = ("image_size", "channels", "crop_ratio", "max_value")
        named = (*pixels, "decoded", "decoded_bytes")
        key = {name: getattr(self.settings, name) for name in named}
        return {
            "pictures": VERSION,
            "random_resized": self._random_resized,
            **key,
            **self._unusual_view,
        }

    def decide(self, parts: Sequence[Part], progress: Progress) -> dict[str, Any]:
        """Return the shape of all images, and whether to store them as pixels."""
        settings, size = self.settings, self.settings.image_size
        width, height = (size, size) if size else _common_size(_sizes(parts, progress))
        shape = (height, width, settings.channels or self.sources[0].channels)
        if settings.decoded != "auto":
            return {"shape": shape, "as_pixels": settings.decoded == "arrays"}
        count = sum(len(part.examples) for part in parts)
        fits = count * math.prod(shape) <= settings.decoded_bytes
        if fits and self._random_resized:
            most = _kept_side(shape, settings.crop_ratio)
            train = [part for part in parts if part.split == "train"]
            fits = all(min(size) <= most for size in _sizes(train, progress))
        return {"shape": shape, "as_pixels": fits}

    def codec(self, split: str, lengths: Lengths | None = None) -> PixelCodec | ImageFileCodec:
        """Return the codec of a split. Random-resized crops need files, even for raw pixels."""
        shape, augmentation = tuple(self.decided["shape"]), self.settings.augmentation
        if self.decided["as_pixels"] and not (split == "train" and self._random_resized):
            return PixelCodec(shape, augmentation)
        view = self.settings.view
        return ImageFileCodec(shape, view.pop("crop_ratio"), augmentation, **view)

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        """Yield the records in blocks. Notes of the decoder are told."""
        codec, names = self.codec(part.split), list[str | None]()
        store = partial(_store, codec, self.settings.view, self.decided["as_pixels"])
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for group in part.read("decoding", _AT_ONCE):
                images = [one["image"] for one in group]
                contents = np.array([*threads.map(content_hash, images)], np.uint64)
                block = np.empty(len(group), codec.dtype)
                for row, (found, notes) in enumerate(threads.map(store, group)):
                    names.append(group[row].get("name"))
                    where = group[row].get("path", names[-1] or f"{part.split} {len(names) - 1}")
                    for note in notes:
                        part.note(note, where)
                    if isinstance(found, str):
                        part.broken.add(where, found)
                        found, contents[row] = codec.broken_record(), NO_CONTENT
                    block[row] = found
                part.contents.append(contents)
                yield block
        if None not in names:
            part.names = [name for name in names if name is not None]

    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        classes = self.sources[0].classes or ()
        shape = tuple(self.decided["shape"])
        return DataSpec(num_classes=len(classes), image_shape=shape, classes=classes)

    def digested(self, hashes: Mapping[str, Any], parts: Sequence[Part]) -> Any:
        classes, crop_ratio = self.sources[0].classes, self.settings.crop_ratio
        digested: list[Any] = [hashes, self.decided["shape"], classes, crop_ratio]
        noted = [[part.split, *note] for part in parts for note in part.noted()]
        if noted:  # files stay the same if they are decoded in another way
            digested.append(noted)
        if self.settings.max_value is not None:
            digested.append(self.settings.max_value)
        return [*digested, *sorted(self._unusual_view.items())]

    @property
    def _random_resized(self) -> bool:
        return self.settings.augmentation.crop == "random_resized"

    @property
    def _unusual_view(self) -> dict[str, str]:
        """Return how pictures are resized, if not as usual: what was prepared before stays."""
        usual = {"resize": "crop", "interpolation": "bicubic"}
        found = {name: getattr(self.settings, name) for name in usual}
        return {name: value for name, value in found.items() if value != usual[name]}


def _sizes(parts: Sequence[Part], progress: Progress) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each image with a readable header."""
    for part in parts:
        stage, total = part.stage("measuring"), len(part.examples)
        for (one,) in in_blocks(part.examples, 1, delayed(progress), stage, total, part.things):
            try:
                yield picture_size(one["image"])
            except ValueError:
                continue


def _common_size(sizes: Iterator[tuple[int, int]]) -> tuple[int, int]:
    """Return the size of the images if all have the same small size; otherwise a square with
    sides of `LARGE` pixels."""
    first = next(sizes, (LARGE, LARGE))
    if max(first) <= SMALL and all(size == first for size in sizes):
        return first
    return LARGE, LARGE


def _kept_side(shape: ImageShape, crop_ratio: float) -> int:
    """Return the short side of the stored pixels that random-resized crops are drawn from."""
    return math.ceil(max(shape[:2]) / min(crop_ratio, _KEPT))


def _store(
    codec: PixelCodec | ImageFileCodec,
    view: Mapping[str, Any],
    as_pixels: bool,
    picture: Mapping[str, Any],
) -> tuple[Any, list[str]]:
    """Return the record of an image, or the reason why it can't be decoded, as a string; and the
    decoder's notes."""
    encoded, label, notes = picture["image"], picture["label"], list[str]()
    decode = partial(decode_picture, notes=notes)
    if label < 0:
        return "it has no label", []
    try:
        if isinstance(codec, PixelCodec):
            return (decode(encoded, codec.shape, **view), label), notes
        if as_pixels:
            width, height = picture_size(encoded)
            scale = min(1.0, _kept_side(codec.shape, view["crop_ratio"]) / min(width, height))
            shape = (round(height * scale), round(width * scale), codec.shape[2])
            pixels = decode(encoded, shape, choose=lambda size: (0, 0, *size), **view)
            encoded = encode_picture(pixels, "ppm")
        else:
            decode(encoded, codec.shape, **view)
    except ValueError as error:
        return str(error), []
    return _label_bytes(label) + encoded, notes


def _label_bytes(label: int) -> bytes:
    return int(label).to_bytes(_LABEL_BYTES, "little", signed=True)
