"""The handwritten digits of scikit-learn: 1,797 images of 8 by 8 pixels with 17 grey levels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data.codecs.pictures import encode_picture
from data.sources.source import hold_out


@dataclass(frozen=True)
class Digits:
    """A source of the digits, numbered as in scikit-learn. An example is an `image` (PNG) and a
    `label`.

    The split `test` is the one of `train_test_split(..., test_size=0.2, random_state=0)`, as usual
    for these digits.

    held_out: share of the other images that is held out for validation, chosen by a hash of the
        image's number.
    """

    held_out: float
    name = "digits"
    classes = tuple("0123456789")
    channels = 1

    @cached_property
    def members(self) -> Mapping[str, list[int]]:
        """The numbers of the images in each split."""
        # The same split as train_test_split. Importing scikit-learn for it would take a second.
        order = np.random.RandomState(0).permutation(1797).tolist()
        test, rest = order[:360], order[360:]
        train, validation = hold_out(rest, self.held_out, str)
        members = {"train": train, "validation": validation, "test": test}
        return {split: sorted(numbers) for split, numbers in members.items() if numbers}

    @property
    def splits(self) -> dict[str, int]:
        return {split: len(numbers) for split, numbers in self.members.items()}

    def source_key(self) -> dict[str, Any]:
        return {"members": self.members}

    def features(self) -> dict[str, Any]:
        import tensorflow_datasets as tfds

        return {
            "image": tfds.features.Image(shape=(None, None, self.channels), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(self.classes)),
        }

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pictures = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        for number in self.members[split]:
            yield {"image": encode_picture(pictures[number]), "label": int(labels[number])}


def open_source(settings: Any) -> Digits:
    """Open the digits. `data.validation_fraction` of the images outside the split test is held
    out for validation."""
    return Digits(settings.validation_fraction)
