"""What went wrong in a run, said from the figures that it left: rules, nothing learnt.

Most rules compare a loss with `prior_loss`, that of a model which knows how frequent each target
is and nothing else: whoever learns gets below it, whatever the task, and it is the same unit for a
classifier of two classes and for a language model of 50,000 tokens.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from configs import Config
from training.wording import count_text, number_text, percent_text

LEAST_STEPS, LEAST_LINES = 100, 10
"""Updates, and logged losses, from which on something is said of how a run learns. A warm-up takes
as many, and of fewer losses no half can be told from the other."""


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

    Of the data: `examples` to learn from; `padding`, the share of the positions of batches that
    hold nothing; `classes`, how many of some examples have each label; `prior_loss` in nats per
    target, as above; `commonest_target` and `commonest_input`, the shares of the one that there is
    most of; `copied`, the share of validation that stands in training too.

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
    copied: float | None = None
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
    def update_ratio(self) -> float:
        """Of the steps whose learning rate was at least half of the highest, the median."""
        rates, ratios = self.logged("learning_rate"), self.logged("update_ratio")
        at_height = (rates >= np.nanmax(rates) / 2) & np.isfinite(ratios)
        return float(np.median(ratios[at_height])) if at_height.any() else math.nan


def diagnose(facts: Facts) -> list[Finding]:
    """What stands out in a run, the first what explains the most. [] where nothing does."""
    found = [*_of_the_data(facts)]
    if facts.is_short:
        return found
    is_constant = any(one.name == CONSTANT for one in found)
    found += [*_frozen(facts), *_of_the_learning(facts, is_constant)]
    if not is_constant:
        found += _dead(facts)
    return found


def verdict(facts: Facts) -> list[str]:
    """The same as lines for the user, who is told too that there is nothing to tell."""
    lines = [str(one) for one in diagnose(facts)]
    if facts.is_short:
        lines.append(
            f"too short to say how it learns: {facts.steps:,} steps; from {LEAST_STEPS} on, "
            f"{LEAST_LINES} of them logged, it is judged"
        )
    return lines or ["nothing stands out"]


# ---- The data, and how it came.

MOST_WAITING = 0.3
"""Of the time of steps: what the devices could save by not waiting is more than noise then."""

MOST_PADDING = 0.7
"""Of the positions. Lengths that are spread evenly leave half of them empty where all are filled up
to the longest, and those of dates as people write them 58 %; here shorter batches would take less
than a third of the work."""

CONSTANT = "constant input"

MOST_ALIKE = 0.5
"""Of the inputs, being the same one: most of what there is can't be told apart."""

MOST_COPIED = 0.1
"""Of validation: where licences, boilerplate and short texts recur by themselves it is below 3 %,
and what a tenth of the examples knows by heart moves a metric by more than runs differ."""

IMBALANCE = 9
"""How often the commonest class is there for one of all others on average: 90 % of two classes."""


def _of_the_data(facts: Facts) -> Iterator[Finding]:
    data, source = facts.config.data, _source(facts)
    is_constant = facts.commonest_input is not None and facts.commonest_input >= MOST_ALIKE
    if is_constant:
        yield Finding(
            CONSTANT,
            f"{percent_text(facts.commonest_input)} of the inputs are one and the same",
            f"another {source} (--show_batch shows what the model sees)",
        )
    if facts.copied is not None and facts.copied >= MOST_COPIED and not is_constant:
        yield Finding(
            "duplicates between training and validation",
            f"{percent_text(facts.copied)} of validation stands in training too, so that its "
            "metrics say little",
            f"{source} without them",
        )
    if finding := _imbalance(facts):
        yield finding
    if facts.padding is not None and facts.padding >= MOST_PADDING:
        remedy = "a smaller data.sequence_length"
        if hasattr(data, "length_buckets"):
            remedy = f"data.length_buckets={2 * data.length_buckets}"
        yield Finding(
            "padding waste",
            f"{percent_text(facts.padding)} of the positions of training batches hold nothing",
            remedy,
        )
    waits = facts.logged("input_wait_fraction")
    waits = waits[np.isfinite(waits)]
    if len(waits) >= LEAST_LINES and (share := float(np.median(waits))) >= MOST_WAITING:
        yield Finding(
            "input-bound",
            f"steps spend {percent_text(share)} of their time waiting for their batch",
            f"data.workers={max(2, 2 * data.workers)}",
        )


def _source(facts: Facts) -> str:
    """The field that says which data it is."""
    return "data.path" if hasattr(facts.config.data, "path") else "data.source"


def _imbalance(facts: Facts) -> Finding | None:
    """One class has at least half of the examples, and `IMBALANCE` times as many as another on
    average. Of a thousand classes a common one is no harm; and who weighs them knows."""
    classes = facts.classes or {}
    if len(classes) < 2 or getattr(facts.config.task, "class_weights", ()):
        return None
    name, most = max(classes.items(), key=lambda one: one[1])
    total = sum(classes.values())
    if 2 * most < total or most * (len(classes) - 1) < IMBALANCE * (total - most):
        return None
    return Finding(
        "class imbalance",
        f"{percent_text(most / total)} of the examples are of class {name}: as much accuracy is "
        "had without looking",
        "task.class_weights",
    )


# ---- The model.

MOST_DEAD = 0.5
"""Of the units of an activation. Some are never needed; where it is half, the layer is another one
than was asked for."""

MOST_NAMES = 3


def _frozen(facts: Facts) -> Iterator[Finding]:
    if facts.unmoved:
        names, held = [*facts.unmoved], sorted({why for why in facts.unmoved.values() if why})
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        told = "never moved from their random values" if held else "never had a gradient"
        yield Finding(
            "frozen layers",
            f"{', '.join(names[:MOST_NAMES])}{more} {told}",
            " and ".join(f"another {one}" for one in held) or "a lower optimizer.learning_rate",
        )


def _dead(facts: Facts) -> Iterator[Finding]:
    """Told last: what learning did wrong may be why. Of one and the same input most units are."""
    worst = max(facts.dead, key=lambda one: one[0] / one[1], default=(0, 1))
    if worst[0] >= MOST_DEAD * worst[1]:
        place = facts.dead.index(worst) + 1
        remedy = "a lower optimizer.learning_rate"
        if getattr(facts.config.model, "feed_forward", "") == "relu":
            remedy += ", or model.feed_forward=gelu"
        yield Finding(
            "dead units",
            f"{worst[0]:,} of the {worst[1]:,} units of activation {place} of {len(facts.dead)} "
            "are zero whatever comes in",
            remedy,
        )


# ---- The learning.

EXPLOSION, HARM = 10, 0.1
"""How many times the largest gradient of the first tenth, which fresh parameters have, and the
usual one at once; and how far, of the prior's loss, the smoothed loss is then above what it was.
Where hardly a mistake is left, one that is made has many times the usual gradient and does no
harm."""

RISE = 0.5
"""Of the prior's loss: where a smoothed loss rises by that above what it was, steps undo what was
learnt. No course of a run that learns does."""

LARGE_UPDATE = 0.03
"""Of the parameters' norm, that a step moves them by while the learning rate is high. About 0.001
is usual in large models (Karpathy, CS231n, "Ratio of weights:updates"), 0.003 to 0.02 in small
ones that learn in hundreds of steps; above it they are thrown about."""

SMALL_UPDATE = 5e-4
"""The same, from which on hundreds of steps come to nothing; with enough of them it is right,
and then the loss shows that."""

UNLEARNT = 0.5
"""Of the prior's loss, left at the end."""

UNSETTLED = 0.1
"""Of the prior's loss, that falls only in the second half of the way."""

GAP, SMALL_GAP, REGRET = 0.2, 0.1, 0.05
"""Of the prior's loss: how far validation is above training; and how far above its own best."""

NO_BETTER = 0.95
"""Of the prior's loss: the best validation of a model that learnt nothing that holds elsewhere."""

POOR = 0.8
"""Of the prior's loss: what is left to a model that explains less than a fifth of it."""

STANDSTILL = 500
"""Steps from which on a loss that stands near the prior's says something. Until then it may be the
plateau at which language models know how frequent words are and nothing else yet, and at which
recognisers that learn by CTC write blanks alone: small ones stay there for hundreds of steps."""


def _of_the_learning(facts: Facts, is_constant: bool) -> Iterator[Finding]:
    """How the losses went. What constant input or a rule before explains is not said again."""
    if (explosion := _explosion(facts)) is not None:
        yield explosion
    rules: list[Callable[[Facts], Finding | None]] = [_too_high, _too_low]
    if not is_constant:
        rules += [_no_information, _underfitting, _overfitting]
    yield from itertools.islice(filter(None, (rule(facts) for rule in rules)), 1)


def _explosion(facts: Facts) -> Finding | None:
    norms = facts.logged("gradient_norm")[np.isfinite(facts.logged("loss"))]
    first = max(1, len(norms) // 10)
    beginning, rest = norms[:first], norms[first:]
    if not np.isfinite(rest).any() or not np.isfinite(beginning).any():
        return None
    usual, highest = float(np.nanmedian(rest)), float(np.nanmax(rest))
    top = first + int(np.nanargmax(rest))
    rise = facts.losses[top:].max() - facts.losses[:top].min()
    if highest < EXPLOSION * max(np.nanmax(beginning), usual) or rise < HARM * facts.scale:
        return None
    return Finding(
        "exploding gradients",
        f"the norm of the gradient reached {number_text(highest)}, and was {number_text(usual)} as "
        "a rule",
        "a lower optimizer.gradient_clip_norm",
    )


def _too_high(facts: Facts) -> Finding | None:
    """Losses that are not finite; or that rise by `RISE`; or updates of `LARGE_UPDATE` with a loss
    that comes down only as the learning rate does, or never."""
    rate = float(np.nanmax(facts.logged("learning_rate")))
    remedy = f"optimizer.learning_rate={rate / 10:.2g}"
    name, losses = "learning rate too high", facts.losses
    lost = int((~np.isfinite(facts.logged("loss"))).sum())
    if lost > 0.05 * (lost + len(losses)) or not len(losses):
        return Finding(name, f"{lost} of the logged losses are not finite", remedy)
    rises = losses - np.minimum.accumulate(losses)
    if rises.max() >= RISE * facts.scale:
        top = int(rises.argmax())
        low, high = number_text(float(losses[:top].min())), number_text(float(losses[top]))
        return Finding(name, f"the loss rose from {low} to {high}", remedy)
    unsettled = facts.half_loss - facts.last_loss >= UNSETTLED * facts.scale
    unlearnt = facts.last_loss >= UNLEARNT * facts.scale
    if facts.update_ratio < LARGE_UPDATE or not (unsettled or unlearnt):
        return None
    told = f"a step moves the parameters by {percent_text(facts.update_ratio)} of their size"
    return Finding(name, f"{told}, and the loss does not settle", remedy)


def _too_low(facts: Facts) -> Finding | None:
    """Updates of `SMALL_UPDATE` at most, with most still to learn or the loss falling on. Of what
    was trained before only the first counts: it has the less to move."""
    unsettled = facts.half_loss - facts.last_loss >= UNSETTLED * facts.scale
    unlearnt = facts.last_loss >= UNLEARNT * facts.scale
    if not facts.update_ratio <= SMALL_UPDATE:
        return None
    if not unlearnt and (facts.begun_elsewhere or not unsettled):
        return None
    rate = float(np.nanmax(facts.logged("learning_rate")))
    return Finding(
        "learning rate too low",
        f"a step moves the parameters by {100 * facts.update_ratio:.2g} % of their size, and the "
        f"loss is still {number_text(facts.last_loss)}",
        f"optimizer.learning_rate={rate * 10:.2g}",
    )


def _no_information(facts: Facts) -> Finding | None:
    """Validation was never better than the prior: neither its loss by a twentieth, nor its accuracy
    by more than chance, three standard deviations, leaves room for. And training, which can learn
    by heart, was, or had time to be."""
    losses, prior = facts.validated("loss"), facts.prior_loss
    if not prior or not len(losses) or losses.min() < NO_BETTER * prior:
        return None
    if facts.last_loss >= NO_BETTER * prior and facts.steps < STANDSTILL:
        return None
    right, examples = facts.validated("accuracy"), facts.validated("examples")
    if len(right) and facts.commonest_target is not None:
        share = facts.commonest_target
        room = 3 * math.sqrt(share * (1 - share) / max(float(examples[-1]), 1.0))
        if right.max() > share + room:
            return None
    return Finding(
        "labels without information",
        f"validation was never better than answering by frequency alone: loss "
        f"{number_text(float(losses.min()))}, and {number_text(prior)} for that",
        f"another {_source(facts)} (--show_batch shows inputs with their labels)",
    )


def _overfitting(facts: Facts) -> Finding | None:
    """Validation is above training by `GAP`; or by `SMALL_GAP`, and above its own best by `REGRET`.
    A gap alone is no harm as long as it is small: training has seen its examples before."""
    losses = facts.validated("loss")
    if not len(losses):
        return None
    gap, regret = losses[-1] - facts.last_loss, losses[-1] - losses.min()
    unit = facts.scale
    if gap < SMALL_GAP * unit or (gap < GAP * unit and regret < REGRET * unit):
        return None
    epochs = facts.steps * facts.config.data.global_batch_size / max(facts.examples, 1)
    config, remedies = facts.config, ["more data"]
    if hasattr(config.data, "augmentation"):
        remedies.append("data.augmentation")
    if hasattr(config.model, "dropout"):
        remedies.append(f"model.dropout={min(0.5, config.model.dropout + 0.2):g}")
    if len(losses) > 1 and regret > 0:
        remedies.append("train.stop_after_evaluations=2")
    return Finding(
        "overfitting",
        f"the loss is {number_text(facts.last_loss)} in training and "
        f"{number_text(float(losses[-1]))} in validation, after {count_text(epochs)} times "
        f"through {facts.examples:,} examples",
        ", ".join(remedies),
    )


def _underfitting(facts: Facts) -> Finding | None:
    """The loss of training came to a stand above `POOR`."""
    prior = facts.prior_loss
    if not prior or facts.last_loss < POOR * prior or facts.steps < STANDSTILL:
        return None
    if facts.half_loss - facts.last_loss >= REGRET * prior:
        return None
    remedies = [
        f"model.{name}={2 * getattr(facts.config.model, name)}"
        for name in ("width", "depth")
        if isinstance(getattr(facts.config.model, name, None), int)
    ]
    return Finding(
        "underfitting",
        f"the loss of training stands at {number_text(facts.last_loss)}, and answering by "
        f"frequency alone has {number_text(prior)}",
        " or ".join(remedies) or "a larger model",
    )
