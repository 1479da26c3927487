"""Sets of pictures that TensorFlow Datasets has prepared, such as mnist, cifar10, imagenet2012."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.errors import UsageError
from data.sources.prepared import PreparedRecords, PreparedSet, open_set
from data.sources.source import RawSplits


@dataclass(frozen=True)
class PreparedPictures:
    """The pictures and labels of a set; they stay in its own files.

    held_out: share of the training part that is held out for validation, by a hash of each one's
    number.
    """

    found: PreparedSet
    image: str
    label: str
    held_out: float
    name: str = field(default="tfds_pictures", init=False)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Their names; numbers where the set has none."""
        return self.found.class_names(self.label)

    @property
    def channels(self) -> int:
        """1 where the set says that its pictures are grey, else 3."""
        shape = self.found.features[self.image].get("image", {}).get("shape", {})
        return 1 if [*shape.get("dimensions", ())][-1:] == ["1"] else 3

    @cached_property
    def numbers(self) -> Mapping[str, NDArray[np.int64]]:
        """The records of each split, by their numbers in the set's own split."""
        return self.found.numbers(self.held_out)

    @property
    def splits(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.numbers.items()}

    def source_key(self) -> dict[str, Any]:
        fields = [self.image, self.label]
        return {"info": self.found.digest(), "fields": fields, "held_out": self.held_out}

    def random_access(self) -> RawSplits:
        return {split: self._pictures(split) for split in self.numbers}

    def _pictures(self, split: str) -> "_Pictures":
        stored = split if split in self.found.splits else "train"
        records = PreparedRecords(self.found.folder, stored, (self.label,))
        return _Pictures(records, self.numbers[split], self.image, self.label)


@dataclass(frozen=True)
class _Pictures(Sequence):
    """Those with `numbers` of some records."""

    records: PreparedRecords
    numbers: NDArray[np.int64]
    image: str
    label: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.numbers[index])
        (one,) = self.records.read([number])
        name = f"{self.records.name} {number}"
        return {"image": one[self.image], "label": int(one[self.label]), "name": name}


def open_source(settings: Any) -> PreparedPictures:
    """The set `data.name`, with its splits train, validation and test.

    Without a validation part `data.validation_fraction` of the training part is held out. Raises
    UsageError.
    """
    found = open_set(settings)
    found.check("data.image_field", settings.image_field, "Image")
    found.check("data.label_field", settings.label_field, "ClassLabel")
    if not found.rows("train"):
        raise UsageError(f"{found.where} has no picture in train")
    held_out = 0.0 if "validation" in found.splits else settings.validation_fraction
    return PreparedPictures(found, settings.image_field, settings.label_field, held_out)
