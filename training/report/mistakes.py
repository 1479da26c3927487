"""What a classifier took for what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MOST = 200
"""Of the pictures taken for others: so many are read again for the report."""


def compare(
    classes: Sequence[str],
    outputs: Mapping[str, np.ndarray],
    picture: Callable[[int], np.ndarray],
) -> dict[str, Any]:
    """The confusion matrix of a split, and the pictures that were most surely taken for others.

    outputs: of the classification task, in the order of the split; `picture(i)` is its example i.
    Returns the arguments `confusion` and `mistakes` of `write_report`.
    """
    labels, predictions = outputs["label"], outputs["prediction"]
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels, predictions), 1)
    confidences = outputs["scores"].max(axis=1)
    wrong = np.flatnonzero(labels != predictions)
    surest = wrong[np.argsort(-confidences[wrong])][:MOST]
    mistakes = [
        (picture(i), classes[labels[i]], classes[predictions[i]], float(confidences[i]))
        for i in map(int, surest)
    ]
    return {"confusion": (classes, counts), "mistakes": mistakes}
