"""The handwritten digits that scikit-learn brings along: 1,797 pictures, 8 by 8, 17 greys."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from data.codecs.pictures import encode_picture
from data.sources.source import hold_out


@dataclass(frozen=True)
class Digits:
    """Pictures by their numbers in scikit-learn. An example is an `image` (PNG) and a `label`.

    `test` is what `train_test_split(..., test_size=0.2, random_state=0)` holds out, as everybody
    who reports a figure on these digits does; of the rest a hash of the number holds out
    `validation`.
    """

    held_out: float
    name = "digits"
    classes = tuple("0123456789")
    channels = 1

    @cached_property
    def members(self) -> Mapping[str, list[int]]:
        """The numbers of each split's pictures."""
        # As train_test_split does, without the second that importing scikit-learn takes.
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
    """Return the digits, with `data.validation_fraction` of the training part held out."""
    return Digits(settings.validation_fraction)
