"""Pictures to arrays of one size."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cache import digest
from data.codecs.pictures import decode_picture
from data.dataset import Dataset, Split
from data.progress import Progress, track
from data.records import write_records

VERSION = 1
"""Of what this file makes of a picture: raised when that changes."""

_AT_ONCE = 256


@dataclass(frozen=True)
class PictureFormat:
    """How pictures are stored, and what a batch of them is. shape: height, width, channels."""

    shape: tuple[int, int, int]

    @property
    def dtype(self) -> np.dtype:
        """A stored picture and its label."""
        return np.dtype([("image", "u1", self.shape), ("label", "<i4")])

    def batch(self, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """`image` uint8 [B, H, W, C], `label` int32 [B], `weights` float32 [B]."""
        return {
            "image": np.ascontiguousarray(pictures["image"]),
            "label": pictures["label"].astype(np.int32),
            "weights": np.ones(len(pictures), np.float32),
        }


@dataclass(frozen=True)
class PicturePreparation:
    """Writes a split's pictures, `image_size` high and wide; `source` knows their classes."""

    source: Any
    image_size: int

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.source.channels)

    def inputs(self) -> dict[str, Any]:
        return {"pictures": VERSION, "shape": self.shape}

    def write(
        self,
        sources: Sequence[Mapping[str, Sequence[dict[str, Any]]]],
        folder: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        splits, hashes = {}, {}
        for split, pictures in sources[0].items():
            records = self._records(split, pictures, progress)
            count, hashes[split] = write_records(folder / f"{split}.array_record", records)
            splits[split] = {"examples": count}
        facts = {"records": hashes, "shape": self.shape, "classes": self.source.classes}
        return {"fingerprint": digest(facts), "splits": splits}

    def open(self, folder: Path, facts: Mapping[str, Any]) -> Dataset:
        form = PictureFormat(self.shape)
        return Dataset(
            fingerprint=facts["fingerprint"],
            splits={
                name: Split(name, folder / f"{name}.array_record", form, **numbers)
                for name, numbers in facts["splits"].items()
            },
            sizes={"num_classes": len(self.source.classes), "image_shape": self.shape},
            classes=self.source.classes,
            image_shape=self.shape,
        )

    def _records(
        self, split: str, pictures: Sequence[dict[str, Any]], progress: Progress
    ) -> Iterator[NDArray[Any]]:
        dtype = PictureFormat(self.shape).dtype
        numbers = track(
            range(len(pictures)), progress, f"decoding {split}", len(pictures), "pictures"
        )
        while group := [pictures[number] for number in itertools.islice(numbers, _AT_ONCE)]:
            yield np.array(
                [(decode_picture(one["image"], self.shape), one["label"]) for one in group], dtype
            )
