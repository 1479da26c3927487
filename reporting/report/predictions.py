"""The predictions of a classifier on a split: metrics of each class, and confusions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from reporting.wording import percent_text

MOST_CLASSES = 50
"""If there are more classes, a table shows only the best and the worst."""

AT_EACH_END = 10


@dataclass(frozen=True)
class Predictions:
    """The predictions for examples of `split`, as arrays [examples].

    example: index of the example in the split.
    label, prediction: indices of `classes`.
    probability: the probability that the model gives to its prediction.
    """

    split: str
    classes: Sequence[str]
    example: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    probability: np.ndarray

    @classmethod
    def arrays(cls) -> list[str]:
        """Return the names of the fields that are arrays, which the task outputs too."""
        return [field.name for field in fields(cls)][2:]

    @classmethod
    def of(cls, outputs: Mapping[str, np.ndarray], split: str, classes: Sequence[str]) -> Self:
        """Build the predictions from outputs of the task. Other arrays in `outputs` are ignored."""
        return cls(split, classes, *(outputs[name] for name in cls.arrays()))

    @property
    def right(self) -> int:
        """Return the number of correct predictions."""
        return int(np.count_nonzero(self.label == self.prediction))

    def confusion(self) -> np.ndarray:
        """Return the confusion matrix, int [true class, predicted class]."""
        size = len(self.classes)
        cells = self.label.astype(np.int64) * size + self.prediction
        return np.bincount(cells, minlength=size * size).reshape(size, size)

    def commonest_confusions(self, most: int) -> list[tuple[str, str, int]]:
        """Return the `most` most frequent confusions as (true class, predicted class, count), the
        most frequent first."""
        wrong = self.label != self.prediction
        pairs = np.stack([self.label[wrong], self.prediction[wrong]], axis=1)
        pairs, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        name = self.classes
        return [(name[pairs[i, 0]], name[pairs[i, 1]], int(counts[i])) for i in order]

    def surest_mistakes(self, most: int) -> list[int]:
        """Return the rows of at most `most` wrong predictions, the highest probability first."""
        wrong = np.flatnonzero(self.label != self.prediction)
        return wrong[np.argsort(-self.probability[wrong], kind="stable")][:most].tolist()

    def by_class(self) -> dict[str, np.ndarray]:
        """Return `examples`, `precision`, `recall` and `f1` of each class, arrays [classes].

        NaN marks what is undefined: the precision of a class that was never predicted, the recall
        of a class without examples, the F1 of a class with neither.
        """
        size = len(self.classes)
        hits = np.bincount(self.label[self.label == self.prediction], minlength=size)
        examples = np.bincount(self.label, minlength=size)
        predicted = np.bincount(self.prediction, minlength=size)
        with np.errstate(invalid="ignore"):
            return {
                "examples": examples,
                "precision": hits / predicted,
                "recall": hits / examples,
                "f1": 2 * hits / (examples + predicted),
            }

    def macro_averages(self) -> dict[str, float]:
        """Return the mean precision, recall and F1 over the classes that occur as label or
        prediction. NaN counts as 0."""
        columns = self.by_class()
        occurs = ~np.isnan(columns["f1"])
        names = ("precision", "recall", "f1")
        return {name: float(np.nan_to_num(columns[name][occurs]).mean()) for name in names}

    def table(self) -> list[tuple[str, ...]]:
        """Return the metrics as rows of text: a header, a row for each class, and the macro
        average.

        With more than `MOST_CLASSES` classes only the best and the worst by F1 are shown, among the
        classes that have examples.
        """
        columns = self.by_class()
        order: list[int] = list(range(len(self.classes)))
        left_out = 0
        if len(order) > MOST_CLASSES:
            order = [i for i in np.argsort(-columns["f1"], kind="stable") if columns["examples"][i]]
            left_out = max(0, len(order) - 2 * AT_EACH_END)
        rows = [
            (self.classes[i], *_texts(*(column[i] for column in columns.values()))) for i in order
        ]
        if left_out:
            gap = (f"... {left_out:,} more ...", "", "", "", "")
            rows[AT_EACH_END:-AT_EACH_END] = [gap]
        averages = _texts(len(self.label), *self.macro_averages().values())
        return [
            ("class", "examples", "precision", "recall", "F1"),
            *rows,
            ("macro average", *averages),
        ]


def _texts(examples: int, *shares: float) -> tuple[str, ...]:
    texts = ("-" if math.isnan(share) else percent_text(share) for share in shares)
    return (f"{examples:,}", *texts)
