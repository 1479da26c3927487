"""The handwritten digits of scikit-learn: 1,797 images of 8 by 8 pixels with 17 grey levels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.codecs.pictures import encode_picture
from data.sources.source import Examples, Source, hold_out


@dataclass(frozen=True)
class Digits(Examples):
    """The images with these `numbers`, counted as in scikit-learn. An example is an `image` (PNG)
    and a `label`."""

    numbers: list[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        pictures = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        for number in self.numbers:
            yield {"image": encode_picture(pictures[number]), "label": int(labels[number])}


def open_source(settings: Any) -> Source:
    """Open the digits.

    The split test is the one of `train_test_split(..., test_size=0.2, random_state=0)`, as usual
    for these digits. `data.validation_fraction` of the other images is held out for validation, by
    a hash of their numbers.
    """
    # The same split as train_test_split. Importing scikit-learn for it would take a second.
    order = np.random.RandomState(0).permutation(1797).tolist()
    train, validation = hold_out(order[360:], settings.validation_fraction, str)
    members = {"train": train, "validation": validation, "test": order[:360]}
    members = {split: sorted(numbers) for split, numbers in members.items() if numbers}
    return Source(
        "digits",
        {split: Digits(numbers) for split, numbers in members.items()},
        {"members": members},
        settings.validation_fraction,
        classes=tuple("0123456789"),
        channels=1,
    )
