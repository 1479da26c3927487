"""What a run left, from which it is diagnosed, and what a finding is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from configs.schema.config import Config

LEAST_STEPS, LEAST_LINES = 100, 10
"""Updates, and logged losses, from which on something is said of how a run learns. A warm-up takes
as many, and of fewer losses no half can be told from the other."""


GOOD = 0.1
"""Of the mistakes of guessing, or of the prior's loss: a run that ends with no more learnt what
there was. Of what it learnt nothing is told, as nothing is to be mended."""


class Finding(NamedTuple):
    """name: of what is wrong. told: what of the figures says so. remedy: the field to try."""

    name: str
    told: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.told}. Try {self.remedy}"


@dataclass(frozen=True)
class Facts:
    """What a run left. None, and what is empty, is not known.

    metrics: of `read_metrics`. begun_elsewhere: whether with the parameters of another run.

    Of the data: `examples` to learn from; `inputs`, how many of them were looked at; `padding`, the
    share of the positions of batches that hold nothing; `classes`, how many of some examples have
    each label; `prior_loss` in nats per target, of a model which knows how frequent each target is
    and nothing else; `commonest_target` and `commonest_input`, the shares of the one that there is
    most of, and `commonest_name`, of an example with that input; `copied`, of two splits the share
    of the second that stands in the first too.

    Of the model: `unmoved`, parameters that are as they were at the beginning, each with the field
    that held it or ``; `dead`, of each activation how many units are always zero, and of how many.
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
        """A metric of all lines of training, NaN where it was not finite."""
        return np.array([line.get(name, math.nan) for line in self._lines])

    def validated(self, name: str) -> np.ndarray:
        """A metric of all validations where it was finite."""
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
        """Whether too little was logged to judge how the run learns."""
        return self.steps < LEAST_STEPS or len(self._lines) < LEAST_LINES

    @cached_property
    def losses(self) -> np.ndarray:
        """The finite losses of training, each the median of itself and its four neighbours: what
        one batch does alone is no course."""
        losses = self.logged("loss")
        losses = losses[np.isfinite(losses)]
        if not len(losses):
            return losses
        beside = np.lib.stride_tricks.sliding_window_view(np.pad(losses, 2, mode="edge"), 5)
        return np.median(beside, axis=1)

    @property
    def last_loss(self) -> float:
        """The mean of the last tenth, so that it is no batch's luck."""
        return float(self.losses[-max(3, len(self.losses) // 10) :].mean())

    @property
    def half_loss(self) -> float:
        """When half of the way was gone, the way being the sum of the learning rates so far: a
        schedule that ends low goes little of it in its second half of the steps."""
        rates = self.logged("learning_rate")[np.isfinite(self.logged("loss"))]
        way = np.cumsum(np.nan_to_num(rates))
        return float(self.losses[np.searchsorted(way, way[-1] / 2)])

    @property
    def scale(self) -> float:
        """The unit of losses: what there is to learn."""
        return self.prior_loss or float(self.losses[0])

    @property
    def is_good(self) -> bool:
        """Whether the run ended well, by validation or, where there is none, by training: with a
        tenth of the mistakes of guessing, or of the prior's loss, or less."""
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
        """Of the steps whose learning rate was at least half of the highest, the median."""
        rates, ratios = self.logged("learning_rate"), self.logged("update_ratio")
        at_height = (rates >= np.nanmax(rates) / 2) & np.isfinite(ratios)
        return float(np.median(ratios[at_height])) if at_height.any() else math.nan
