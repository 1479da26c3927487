"""The facts that a run is diagnosed by, and the findings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from configs.schema.config import Config

LEAST_STEPS, LEAST_LINES = 100, 10
"""Updates, and logged losses, from which how a run learns is judged. A warm-up takes as many steps,
and two halves of fewer losses do not differ."""


GOOD = 0.1
"""Share of the mistakes of guessing, or of the prior's loss: a run that ends with no more learnt
what there was, and nothing is to be mended."""


class Finding(NamedTuple):
    """name: what is wrong. evidence: the figures that say so. remedy: the field to try."""

    name: str
    evidence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.evidence}. Try {self.remedy}"


@dataclass(frozen=True)
class Facts:
    """The facts of a run; None and empty fields are not known.

    metrics: of `read_metrics`. begun_elsewhere: whether the run began with the parameters of
    another one.

    The data: `examples`, how many there are to learn from; `inputs`, how many were looked at;
    `padding`, the share of positions in batches that hold nothing; `classes`, the number of
    examples with each label; `prior_loss`, in nats per target, of a model that knows how frequent
    each target is and nothing else; `commonest_target` and `commonest_input`, the shares of the
    most frequent ones, and `commonest_name`, an example with that input; `copied`, for two splits
    the share of the second that stands in the first too.

    The model: `unmoved`, parameters that kept their first values, each with the field that held it
    or ``; `dead`, for each activation how many units are always zero, and how many there are.
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
        """Return a metric of all lines of training, NaN if it was not finite."""
        return np.array([line.get(name, math.nan) for line in self._lines])

    def validated(self, name: str) -> np.ndarray:
        """Return a metric of all validations where it was finite."""
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
        """Return whether too little was logged to judge how the run learns."""
        return self.steps < LEAST_STEPS or len(self._lines) < LEAST_LINES

    @cached_property
    def losses(self) -> np.ndarray:
        """Return the finite losses of training, smoothed by the median of five neighbours."""
        losses = self.logged("loss")
        losses = losses[np.isfinite(losses)]
        if not len(losses):
            return losses
        beside = np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5)
        return np.median(beside, axis=1)

    @property
    def last_loss(self) -> float:
        """Return the mean of the last tenth, so that it is no batch's luck."""
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
        """Return the unit of losses: the prior's loss, all that there is to learn."""
        return self.prior_loss or float(self.losses[0])

    @property
    def is_good(self) -> bool:
        """Return whether the run ended with a tenth, or less, of the mistakes of guessing or of the
        prior's loss; by validation, or by training if there is none."""
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
        """Return the median of the steps whose learning rate was at least half of the highest."""
        rates, ratios = self.logged("learning_rate"), self.logged("update_ratio")
        at_height = (rates >= np.nanmax(rates) / 2) & np.isfinite(ratios)
        return float(np.median(ratios[at_height])) if at_height.any() else math.nan
