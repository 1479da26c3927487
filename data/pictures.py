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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from data.augmentation import augment, generator, is_on, random_box
from data.broken import Broken
from data.cache import digest
from data.codecs.pictures import ImageShape, decode_picture, encode_picture, picture_size
from data.dataset import Dataset, ExampleCodec, Split
from data.progress import Progress, read_blocks
from data.records import write_names, write_records
from data.sources.source import RawExamples, RawSplits

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
    def is_expensive(self) -> bool:
        return is_on(self.augmentation)

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
        if is_on(self.augmentation):
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


@dataclass(frozen=True)
class PicturePreparation:
    """Prepares labelled images.

    source: the source of the images.
    settings: `config.data`.

    A raw example has an encoded `image`, a `label`, and optionally a `name` and a `path` (for error
    messages). A split without labels (-1, as in the test data of a competition) is left out.
    """

    source: Any
    settings: Any

    def cache_key(self) -> dict[str, Any]:
        pixels = ("image_size", "channels", "crop_ratio", "max_value")
        named = (*pixels, "decoded", "decoded_bytes")
        key = {name: getattr(self.settings, name) for name in named}
        return {
            "pictures": VERSION,
            "random_resized": self._random_resized,
            **key,
            **self._unusual_view,
        }

    def write(
        self,
        sources: Sequence[RawSplits],
        folder: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        labelled = {
            split: pictures
            for split, pictures in sources[0].items()
            if split == "train" or (len(pictures) and pictures[0]["label"] >= 0)
        }
        shape, as_pixels = self._decide(labelled)
        metadata: dict[str, Any] = {"shape": shape, "as_pixels": as_pixels, "splits": {}}
        warnings = [
            f"{split} has no labels, and is left out"
            for split in sources[0]
            if split not in labelled
        ]
        broken = Broken("pictures", sum(map(len, labelled.values())), self.settings.broken_fraction)
        hashes, noted = {}, dict[tuple[str, str], tuple[int, str]]()
        for split, pictures in labelled.items():
            before = broken.count
            path, names = folder / f"{split}.array_record", list[str | None]()
            records = self._records(split, pictures, metadata, broken, names, noted, progress)
            count, hashes[split] = write_records(path, records)
            known = [name for name in names if name is not None]
            if len(known) == len(names):
                write_names(path, known)
            metadata["splits"][split] = {"examples": count, "broken": broken.count - before}
        broken.check_splits(metadata["splits"])
        decided = [hashes, shape, self.source.classes, self.settings.crop_ratio]
        if noted:  # files stay the same if they are decoded in another way
            decided.append([[*what, count] for what, (count, _) in noted.items()])
        if self.settings.max_value is not None:
            decided.append(self.settings.max_value)
        decided += sorted(self._unusual_view.items())
        warnings += [
            f"{count:,} of {len(labelled[split]):,} pictures of {split} {note}; such as {name}"
            for (split, note), (count, name) in noted.items()
        ]
        told = {"notes": warnings, "broken": broken.messages}
        return {"fingerprint": digest(decided), **told, **metadata}

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        splits = {
            name: Split(
                name, folder / f"{name}.array_record", self._codec(name, metadata), **numbers
            )
            for name, numbers in metadata["splits"].items()
        }
        allowed, messages = self.settings.broken_fraction, metadata["broken"]
        broken = Broken.of("pictures", splits.values(), allowed, messages)
        classes = self.source.classes
        return Dataset(
            fingerprint=metadata["fingerprint"],
            splits=splits,
            spec=DataSpec(
                num_classes=len(classes), image_shape=tuple(metadata["shape"]), classes=classes
            ),
            warnings=(*metadata["notes"], *broken.lines()),
        )

    @property
    def _random_resized(self) -> bool:
        return self.settings.augmentation.crop == "random_resized"

    @property
    def _unusual_view(self) -> dict[str, str]:
        """Return how pictures are resized, if not as usual: what was prepared before stays."""
        usual = {"resize": "crop", "interpolation": "bicubic"}
        found = {name: getattr(self.settings, name) for name in usual}
        return {name: value for name, value in found.items() if value != usual[name]}

    def _codec(self, split: str, metadata: Mapping[str, Any]) -> PixelCodec | ImageFileCodec:
        """Return the codec of a split. Random-resized crops need files, even for raw pixels."""
        shape, augmentation = tuple(metadata["shape"]), self.settings.augmentation
        if metadata["as_pixels"] and not (split == "train" and self._random_resized):
            return PixelCodec(shape, augmentation)
        view = self.settings.view
        return ImageFileCodec(shape, view.pop("crop_ratio"), augmentation, **view)

    def _records(
        self,
        split: str,
        pictures: RawExamples,
        metadata: Mapping[str, Any],
        broken: Broken,
        names: list[str | None],
        noted: dict[tuple[str, str], tuple[int, str]],
        progress: Progress,
    ) -> Iterator[NDArray[Any]]:
        """Yield the records of `pictures` in blocks.

        Images that can't be decoded are counted by `broken`. The name of each image, or None,
        is appended to `names`. Each note of the decoder is counted in `noted`, by split and note,
        with the first image that has it.
        """
        codec = self._codec(split, metadata)
        store = partial(_store, codec, self.settings.view, metadata["as_pixels"])
        stage = f"decoding {split}"
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for group in read_blocks(pictures, _AT_ONCE, progress, stage, "pictures"):
                block = np.empty(len(group), codec.dtype)
                for row, (found, notes) in enumerate(threads.map(store, group)):
                    names.append(group[row].get("name"))
                    where = group[row].get("path", names[-1] or f"{split} {len(names) - 1}")
                    for note in notes:
                        count, first = noted.get((split, note), (0, where))
                        noted[split, note] = count + 1, first
                    if isinstance(found, str):
                        broken.add(where, found)
                        found = codec.broken_record()
                    block[row] = found
                yield block

    def _decide(self, splits: RawSplits) -> tuple[ImageShape, bool]:
        """Return the shape of all images, and whether to store them as pixels."""
        settings, size = self.settings, self.settings.image_size
        width, height = (size, size) if size else _common_size(_sizes(splits))
        shape = (height, width, settings.channels or self.source.channels)
        if settings.decoded != "auto":
            return shape, settings.decoded == "arrays"
        fits = sum(map(len, splits.values())) * math.prod(shape) <= settings.decoded_bytes
        if fits and self._random_resized:
            most = _kept_side(shape, settings.crop_ratio)
            fits = all(min(size) <= most for size in _sizes({"train": splits["train"]}))
        return shape, fits


def _sizes(splits: RawSplits) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each image with a readable header."""
    for pictures in splits.values():
        for number in range(len(pictures)):
            try:
                yield picture_size(pictures[number]["image"])
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
