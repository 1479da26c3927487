"""Sets of pictures that TensorFlow Datasets has prepared, such as mnist, cifar10, imagenet2012."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs import UsageError
from data.sources.prepared import PreparedRecords, PreparedSet, open_set
from data.sources.source import held_out_mask
from data.sources.tables import no_such_field


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
        path = self.found.folder / f"{self.label}.labels.txt"
        if path.exists():
            return tuple(path.read_text(encoding="utf-8").splitlines())
        facts = self.found.features[self.label].get("classLabel", {})
        return tuple(map(str, range(int(facts.get("numClasses", 0)))))

    @property
    def channels(self) -> int:
        """1 where the set says that its pictures are grey, else 3."""
        shape = self.found.features[self.image].get("image", {}).get("shape", {})
        return 1 if [*shape.get("dimensions", ())][-1:] == ["1"] else 3

    @cached_property
    def numbers(self) -> Mapping[str, NDArray[np.int64]]:
        """The records of each split, by their numbers in the set's own split."""
        numbers = {split: np.arange(self.found.rows(split)) for split in self.found.splits}
        if self.held_out:
            mask = held_out_mask((f"train:{row}" for row in numbers["train"]), self.held_out)
            numbers |= {"train": np.flatnonzero(~mask), "validation": np.flatnonzero(mask)}
        return {split: rows for split, rows in numbers.items() if len(rows)}

    @property
    def splits(self) -> dict[str, int]:
        return {split: len(rows) for split, rows in self.numbers.items()}

    def contents(self) -> dict[str, Any]:
        fields = [self.image, self.label]
        return {"info": self.found.digest(), "fields": fields, "held_out": self.held_out}

    def at_hand(self) -> dict[str, Sequence[dict[str, Any]]]:
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
    for what, name, kind in (
        ("image_field", settings.image_field, "Image"),
        ("label_field", settings.label_field, "ClassLabel"),
    ):
        if name not in found.kinds:
            raise no_such_field(found.where, name, found.kinds, f"data.{what}")
        if found.kinds[name] != kind:
            others = [other for other, of in found.kinds.items() if of == kind]
            there = f"give data.{what}={' or '.join(others)}" if others else f"it has no {kind}"
            raise UsageError(
                f"{found.where}: feature {name!r} is a {found.kinds[name]}, not a {kind}: {there}"
            )
    if not found.rows("train"):
        raise UsageError(f"{found.where} has no picture in train")
    held_out = 0.0 if "validation" in found.splits else settings.validation_fraction
    return PreparedPictures(found, settings.image_field, settings.label_field, held_out)
