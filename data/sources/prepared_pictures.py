"""Sources of image data sets prepared by TensorFlow Datasets, such as mnist and cifar10."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from configs.errors import UsageError
from data.sources.prepared import PreparedExamples, PreparedRecords, open_set


class PreparedPictures(PreparedExamples):
    """A source of the images of a set, with their labels."""

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; numbers if the set has no names."""
        return self.found.class_names(self.target_field)

    @property
    def channels(self) -> int:
        """1 if the set describes its images as grey, else 3."""
        shape = self.found.features[self.content_field].get("image", {}).get("shape", {})
        return 1 if [*shape.get("dimensions", ())][-1:] == ["1"] else 3

    def reader(self, stored: str) -> Callable[[int], dict[str, Any]]:
        records = PreparedRecords(self.found.folder, stored, (self.target_field,))

        def read(number: int) -> dict[str, Any]:
            (one,) = records.read([int(number)])
            image, label = one[self.content_field], int(one[self.target_field])
            return {"image": image, "label": label, "name": f"{stored} {number}"}

        return read


def open_source(settings: Any) -> PreparedPictures:
    """Open the set `data.name`, with its splits train, validation and test.

    Without a validation split, `data.validation_fraction` of train is held out. Raises UsageError
    if the set or one of its features `data.image_field` and `data.label_field` is missing, or if a
    feature has another type.
    """
    found = open_set(settings)
    found.check("data.image_field", settings.image_field, "Image")
    found.check("data.label_field", settings.label_field, "ClassLabel")
    if not found.rows("train"):
        raise UsageError(f"{found.where} has no picture in train")
    held_out = 0.0 if "validation" in found.splits else settings.validation_fraction
    fields = settings.image_field, settings.label_field
    return PreparedPictures(settings.source, found, *fields, held_out)
