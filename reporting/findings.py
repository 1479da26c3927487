"""The facts from which a run is diagnosed, and the findings of the diagnosis."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from configs.schema.config import Config

LEAST_STEPS, LEAST_LINES = 100, 10
"""Number of steps, and of logged losses, from which the learning of a run is judged. A warm-up
takes as many steps, and with fewer losses two halves of a run can't be compared."""


GOOD = 0.1
"""Share of the mistakes of guessing, or of the prior's loss. A run that ends below it learnt what
there was to learn, and nothing needs fixing."""


class Finding(NamedTuple):
    """A problem of a run. name: what is wrong. evidence: the figures that show it. remedy: the
    field to change."""

    name: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. Try {self.remedy}"


@dataclass(frozen=True)
class Facts:
    """The facts about a run. Fields that are None or empty are unknown.

    metrics: from `read_metrics`. begun_elsewhere: whether the run was initialised from another
    model.

    The data. examples: number of training examples. inputs: number of inputs that were examined.
    padding: share of padding among the positions of batches. classes: number of examples with each
    label. prior_loss: loss, in nats per target, of a model that knows only how frequent each target
    is. commonest_target, commonest_input: share of the most frequent target and input.
    commonest_name: an example with that input. copied: for two splits, the share of the second that
    is in the first too.

    The model. unmoved: parameters that kept their initial values, each with the field that keeps it
    fixed or "". dead: for each activation, the number of units that are always zero, and of all
    units.
    """

    config: Config
    metrics: Sequence[Mapping[str, Any]] = ()
    begun_elsewhere: bool = False
    examples: int = 0
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
        """Return the values of a metric in all training lines, NaN where it was not finite."""
        return np.array([line.get(name, math.nan) for line in self._lines])

    def validated(self, name: str) -> np.ndarray:
        """Return the finite values of a metric from all validations, in their order."""
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
        """Return whether too little was logged to judge the learning."""
        return self.steps < LEAST_STEPS or len(self._lines) < LEAST_LINES

    @cached_property
    def losses(self) -> np.ndarray:
        """Return the finite training losses, each replaced by the median of five neighbours."""
        losses = self.logged("loss")
        losses = losses[np.isfinite(losses)]
        if not len(losses):
            return losses
        beside = np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5)
        return np.median(beside, axis=1)

    @property
    def last_loss(self) -> float:
        """Return the mean loss of the last tenth, so that no single batch decides."""
        return float(self.losses[-max(3, len(self.losses) // 10) :].mean())

    @property
    def half_loss(self) -> float:
        """Return the loss when half of the learning was done, measured by the sum of the learning
        rates: a schedule that ends low learns little in its second half of the steps."""
        rates = self.logged("learning_rate")[np.isfinite(self.logged("loss"))]
        way = np.cumsum(np.nan_to_num(rates))
        return float(self.losses[np.searchsorted(way, way[-1] / 2)])

    @property
    def scale(self) -> float:
        """Return the unit of losses: the prior's loss, or the first loss if the prior's is
        unknown."""
        return self.prior_loss or float(self.losses[0])

    @property
    def is_good(self) -> bool:
        """Return whether the run ended with at most `GOOD` of the prior's loss, or of the mistakes
        of guessing; measured by validation, or by training without validation."""
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
        rate."""
        rates, ratios = self.logged("learning_rate"), self.logged("update_ratio")
        at_height = (rates >= np.nanmax(rates) / 2) & np.isfinite(ratios)
        return float(np.median(ratios[at_height])) if at_height.any() else math.nan
