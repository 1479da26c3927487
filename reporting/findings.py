"""The input and the output of a run's diagnosis: `Facts` and `Finding`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from configs.schema.config import Config

LEAST_STEPS, LEAST_LINES = 100, 10
"""A run with fewer steps, or fewer logged losses, is too short to judge how it learns. A warm-up
can take 100 steps, and with fewer losses the two halves of a run can't be compared."""


GOOD = 0.1
"""A run ended well if its final loss is at most this share of `Facts.prior_loss`, or its error rate
at most this share of the error rate of guessing. Nothing then needs fixing."""


class Finding(NamedTuple):
    """A problem found in a run.

    name: what is wrong.
    evidence: the numbers that show it.
    remedy: the setting to change.
    """

    name: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. Try {self.remedy}"


@dataclass(frozen=True)
class Facts:
    """What is known about a run. Fields that are None or empty are unknown.

    metrics: from `read_metrics`.
    begun_elsewhere: whether the run was initialised from another model.

    About the data.

    examples: number of training examples.
    most_subsampling: the largest `model.subsampling` with which CTC can learn a transcript.
    inputs: number of sampled inputs.
    padding: share of the positions of batches that are padding.
    classes: number of sampled examples with each label.
    prior_loss: loss, in nats per target, of a model that always predicts the frequencies of the
        targets.
    commonest_target, commonest_input: share of the most frequent target and input.
    commonest_name: name of an example with the most frequent input.
    copied: {(first, second): share of the split `second` that is also in the split `first`}.

    About the model.

    unmoved: the result of `unmoved_parameters`, the parameters that still have their initial
        values, each with the setting that keeps it fixed, or "" if it never had a gradient.
    dead: for each activation, the number of units that are always zero, and the number of all
        units.
    """

    config: Config
    metrics: Sequence[Mapping[str, Any]] = ()
    begun_elsewhere: bool = False
    examples: int = 0
    most_subsampling: int | None = None
    padding: float | None = None
    classes: Mapping[str, int] | None = None
    prior_loss: float | None = None
    commonest_target: float | None = None
    commonest_input: float | None = None
    commonest_name: str | None = None
    inputs: int = 0
    copied: Mapping[tuple[str, str], float] = field(default_factory=dict)
    unmoved: Mapping[str, str] = field(default_factory=dict)
    dead: Sequence[tuple[int, int]] = ()

    def logged(self, name: str) -> np.ndarray:
        """Return the values of a metric at all logged training steps, NaN where it is missing or
        not finite."""
        return np.array([line.get(name, math.nan) for line in self._lines])

    def validated(self, name: str) -> np.ndarray:
        """Return the finite values of a metric from all validations, in order."""
        name = f"validation/{name}"
        values = np.array([line[name] for line in self.metrics if name in line])
        return values[np.isfinite(values)]

    @cached_property
    def _lines(self) -> list[Mapping[str, Any]]:
        return [line for line in self.metrics if "loss" in line]

    @property
    def steps(self) -> int:
        return max((line["step"] for line in self._lines), default=0)

    @cached_property
    def is_short(self) -> bool:
        """Return whether the run is too short to judge how it learns."""
        return self.steps < LEAST_STEPS or len(self._lines) < LEAST_LINES

    @cached_property
    def losses(self) -> np.ndarray:
        """Return the finite training losses, smoothed by a running median over five."""
        losses = self.logged("loss")
        losses = losses[np.isfinite(losses)]
        if not len(losses):
            return losses
        beside = np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5)
        return np.median(beside, axis=1)

    @property
    def last_loss(self) -> float:
        """Return the mean of the last tenth of `losses`, so that no single batch decides."""
        return float(self.losses[-max(3, len(self.losses) // 10) :].mean())

    @property
    def half_loss(self) -> float:
        """Return the loss at the step where the sum of the learning rates reaches half of its final
        value. A schedule that decays learns little in the second half of its steps, so this step is
        the middle of the learning."""
        rates = self.logged("learning_rate")[np.isfinite(self.logged("loss"))]
        way = np.cumsum(np.nan_to_num(rates))
        return float(self.losses[np.searchsorted(way, way[-1] / 2)])

    @property
    def scale(self) -> float:
        """Return the loss that other losses are compared with: `prior_loss` or, if the prior's loss
        is unknown, the first training loss."""
        return self.prior_loss or float(self.losses[0])

    @property
    def is_good(self) -> bool:
        """Return whether the run ended well, as `GOOD` defines it. Uses the last validation, or the
        last training metrics if there is no validation."""
        losses = self.validated("loss")
        loss = (
            float(losses[-1]) if len(losses) else self.last_loss if len(self.losses) else math.inf
        )
        if self.prior_loss and loss <= GOOD * self.prior_loss:
            return True
        found = self.validated("exact_match")
        mistakes = [1 - found[-1]] if len(found) else [*self.validated("wer")[-1:]]
        if self.classes and self.commonest_target is not None:
            right = self.validated("accuracy") if len(losses) else self.logged("accuracy")[-3:]
            if len(right):
                last = float(right[-1] if len(losses) else right.mean())
                mistakes.append((1 - last) / max(1 - self.commonest_target, 1e-9))
        return any(share <= GOOD for share in mistakes)

    @property
    def update_ratio(self) -> float:
        """Return the median update ratio of the steps with at least half of the highest learning
        rate; NaN if there are none."""
        rates, ratios = self.logged("learning_rate"), self.logged("update_ratio")
        at_height = (rates >= np.nanmax(rates) / 2) & np.isfinite(ratios)
        return float(np.median(ratios[at_height])) if at_height.any() else math.nan
