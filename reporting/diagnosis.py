"""Diagnoses what went wrong in a run, by rules on its metrics, its data and its model.

Most rules express a loss as a share of `Facts.prior_loss`, the loss of a model that knows only how
frequent each target is. In this file, "the prior" is that model. In any task, a model that learns
anything gets below the prior's loss. The same thresholds therefore fit a classifier of two classes
and a language model with 50,000 tokens.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.special import bdtrc

from reporting.data_diagnosis import CONSTANT, data_findings, source_field
from reporting.explanation import UNFORGOTTEN, better_decay, initial_share
from reporting.findings import LEAST_LINES, LEAST_STEPS, Facts, Finding
from reporting.wording import count_text, number_text, percent_text


def diagnose(facts: Facts) -> list[Finding]:
    """Return the findings about a run. A cause comes before the problems that it explains."""
    found = [*data_findings(facts), *_input_bound(facts)]
    if facts.is_short:
        return found
    is_constant = any(one.name == CONSTANT for one in found)
    found += [*_frozen(facts), *_of_the_learning(facts, is_constant)]
    if not is_constant and not facts.is_good:
        found += _dead(facts)
    return found


def verdict(facts: Facts) -> list[str]:
    """Return the findings as lines of text for the user. If there are none, or if it is too early
    to judge, a line says so."""
    lines = [str(one) for one in diagnose(facts)]
    if facts.is_short:
        lines.append(
            f"too short to say how it learns: {facts.steps:,} steps; from {LEAST_STEPS} on, "
            f"{LEAST_LINES} of them logged, it is judged"
        )
    elif not lines and facts.prior_loss is not None and _is_at_prior(facts):
        lines.append(
            f"nothing learnt so far: the loss is {number_text(facts.last_loss)}, and "
            f"{number_text(facts.prior_loss)} is that of answering by frequency alone; from "
            f"{STANDSTILL} steps on it is judged"
        )
    return lines or ["nothing stands out"]


# ---- The input.

MOST_WAITING = 0.3
"""Waiting for input is reported if it takes at least this share of the step time. Less may be
noise."""


def _input_bound(facts: Facts) -> Iterator[Finding]:
    waits = facts.logged("input_wait_fraction")
    waits = waits[np.isfinite(waits)]
    if len(waits) >= LEAST_LINES and (share := float(np.median(waits))) >= MOST_WAITING:
        yield Finding(
            "input-bound",
            f"steps spend {percent_text(share)} of their time waiting for their batch",
            f"data.workers={max(2, 2 * facts.config.data.workers)}",
        )


# ---- The model.

MOST_DEAD = 0.5
"""Dead units are reported if they are at least this share of an activation's units. Every model has
a few units that it never needs. With half of them dead, the layer is much smaller than
configured."""

MOST_NAMES = 3


def _frozen(facts: Facts) -> Iterator[Finding]:
    if facts.unmoved:
        names, held = [*facts.unmoved], sorted({why for why in facts.unmoved.values() if why})
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        reason = "never moved from their random values" if held else "never had a gradient"
        yield Finding(
            "frozen layers",
            f"{', '.join(names[:MOST_NAMES])}{more} {reason}",
            " and ".join(f"another {one}" for one in held) or "a lower optimizer.learning_rate",
        )


def _dead(facts: Facts) -> Iterator[Finding]:
    """Find an activation with many dead units.

    `diagnose` applies this rule last, because other problems may explain dead units. For constant
    input it does not apply the rule, because most units are then zero.
    """
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

TOO_HIGH = "learning rate too high"

EXPLOSION, HARM = 10, 0.1
"""Gradients explode if two things happen. A norm is at least `EXPLOSION` times both the largest
norm in the first tenth of the steps and the median of the later norms. And the smoothed loss rises
by at least `HARM` times the prior's loss. A high norm alone is harmless: when few mistakes are
left, each one has many times the usual gradient."""

RISE = 0.5
"""The learning rate is too high if the smoothed loss rises by at least this share of the prior's
loss. Runs that learn have no such rise."""

LARGE_UPDATE = 0.025
"""Updates are too large if the update ratio is at least this while the learning rate is high. About
0.001 is usual in large models (Karpathy, CS231n, "Ratio of weights:updates"), 0.003 to 0.02 in
small ones that learn in hundreds of steps. `digits_cnn` with 100 times its learning rate has 0.030
to 0.040, by the seed."""

SMALL_UPDATE = 5e-4
"""Updates are too small if the update ratio is at most this and the loss is still high or falling.
With enough steps, such a ratio is fine."""

UNLEARNT = 0.5
"""A final loss is high if it is at least this share of the prior's loss: most is not learnt yet."""

UNSETTLED = 0.1
"""A loss has not settled if it falls by at least this share of the prior's loss in the second half
of the learning (`Facts.half_loss`)."""

GAP, SMALL_GAP, REGRET = 0.2, 0.1, 0.05
"""Thresholds for overfitting, as shares of the prior's loss. GAP, SMALL_GAP: validation loss minus
training loss. REGRET: last validation loss minus the best one."""

NO_BETTER = 0.95
"""Validation is no better than the prior if its best loss is at least this share of the prior's
loss."""

CHANCE = 0.001
"""An accuracy shows that something was learnt if guessing reaches it in one of the validations with
less than this probability."""

PRECISE = 0.05
"""An accuracy is reported with its error if two standard errors are more than this."""

POOR = 0.8
"""A model underfits if its training loss stops falling at this share of the prior's loss or
above."""

STANDSTILL = 500
"""A loss near the prior's is judged only after at least this number of steps. Before that it may be
a plateau, on which small models stay for hundreds of steps: language models that know only how
frequent words are, and CTC models that predict only blanks."""


def _of_the_learning(facts: Facts, is_constant: bool) -> Iterator[Finding]:
    """Yield exploding gradients, and the first finding of the other rules on the losses.

    If the input is constant, rules that would only report its consequences are left out. If the run
    ended well, only the rules for losses that are not finite and for too high a learning rate are
    applied.
    """
    if (explosion := _explosion(facts)) is not None:
        yield explosion
    rules: list[Callable[[Facts], Finding | None]] = [_not_finite, _too_high]
    if not facts.is_good:
        rules.append(_too_low)
        if not is_constant:
            rules += [_nothing_learnt, _no_generalization, _underfitting, _overfitting]
    found = next(filter(None, (rule(facts) for rule in rules)), None)
    if found is not None:
        yield _stale_average(facts) if found.name in OF_VALIDATION and _is_stale(facts) else found


OF_VALIDATION = ("nothing learnt", "no generalization", "overfitting")
"""Findings that use the validation loss. It is measured with averaged weights if the run has them,
the training loss with raw ones."""


def _is_stale(facts: Facts) -> bool:
    """Return whether validation uses averaged weights with too large a share of the initial
    values."""
    return initial_share(facts.config) > UNFORGOTTEN


def _stale_average(facts: Facts) -> Finding:
    config, losses = facts.config, facts.validated("loss")
    return Finding(
        "stale average",
        f"the loss is {number_text(facts.last_loss)} in training and "
        f"{number_text(float(losses[-1]))} in validation, which is of averaged weights: initial "
        f"values keep {initial_share(config):.0%} of the average after "
        f"{config.train.steps:,} steps",
        f"train.ema_decay={better_decay(config):.3g}, or evaluate with --weights=raw",
    )


def _explosion(facts: Facts) -> Finding | None:
    norms = facts.logged("gradient_norm")[np.isfinite(facts.logged("loss"))]
    first = max(1, len(norms) // 10)
    warm_start, rest = norms[:first], norms[first:]
    if not np.isfinite(rest).any() or not np.isfinite(warm_start).any():
        return None
    usual, highest = float(np.nanmedian(rest)), float(np.nanmax(rest))
    top = first + int(np.nanargmax(rest))
    rise = facts.losses[top:].max() - facts.losses[:top].min()
    if highest < EXPLOSION * max(np.nanmax(warm_start), usual) or rise < HARM * facts.scale:
        return None
    return Finding(
        "exploding gradients",
        f"the norm of the gradient reached {number_text(highest)}, and was {number_text(usual)} as "
        "a rule",
        "a lower optimizer.gradient_clip_norm",
    )


def _not_finite(facts: Facts) -> Finding | None:
    lost = int((~np.isfinite(facts.logged("loss"))).sum())
    if lost <= 0.05 * (lost + len(facts.losses)) and len(facts.losses):
        return None
    return Finding(TOO_HIGH, f"{lost} of the logged losses are not finite", _lower_rate(facts))


def _lower_rate(facts: Facts) -> str:
    return f"optimizer.learning_rate={np.nanmax(facts.logged('learning_rate')) / 10:.2g}"


def _too_high(facts: Facts) -> Finding | None:
    """Find a loss that rises by `RISE`. Otherwise find updates of at least `LARGE_UPDATE` with a
    loss that has not settled or is high."""
    losses, remedy = facts.losses, _lower_rate(facts)
    rises = losses - np.minimum.accumulate(losses)
    if rises.max() >= RISE * facts.scale:
        top = int(rises.argmax())
        low, high = number_text(float(losses[:top].min())), number_text(float(losses[top]))
        return Finding(TOO_HIGH, f"the loss rose from {low} to {high}", remedy)
    unsettled = facts.half_loss - facts.last_loss >= UNSETTLED * facts.scale
    unlearnt = facts.last_loss >= UNLEARNT * facts.scale and not facts.is_good
    if facts.update_ratio < LARGE_UPDATE or not (unsettled or unlearnt):
        return None
    text = f"a step moves the parameters by {percent_text(facts.update_ratio)} of their size"
    return Finding(TOO_HIGH, f"{text}, and the loss does not settle", remedy)


def _too_low(facts: Facts) -> Finding | None:
    """Find updates of at most `SMALL_UPDATE` with a loss that is high or has not settled. For a run
    that was initialised from another model, only a high loss counts."""
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


def _is_no_better(facts: Facts) -> bool:
    """Return whether no validation was better than the prior: every loss was at least `NO_BETTER`
    times the prior's, and no accuracy was too high for guessing (`_beyond_chance`). False without a
    validation, or without the prior's loss."""
    losses = facts.validated("loss")
    if not facts.prior_loss or not len(losses) or losses.min() < NO_BETTER * facts.prior_loss:
        return False
    right, beyond = facts.validated("accuracy"), _beyond_chance(facts)
    return beyond is None or float(right.max()) < beyond


def _beyond_chance(facts: Facts) -> float | None:
    """Return the lowest validation accuracy that shows learning. Always giving the most frequent
    answer would reach it with a probability below `CHANCE`. It is above 1 if there are too few
    examples. Return None if there is no accuracy."""
    right, examples = facts.validated("accuracy"), facts.validated("examples")
    if not len(right) or not len(examples) or facts.commonest_target is None:
        return None
    count = max(int(examples[-1]), 1)
    # bdtrc(k): the probability of more than k, times the number of validations.
    likely = bdtrc(np.arange(count) - 0.0, count, facts.commonest_target) * len(right) >= CHANCE
    return (int(likely.sum()) + 1) / count


def _is_at_prior(facts: Facts) -> bool:
    """Return whether neither validation nor training was better than the prior."""
    if facts.prior_loss is None or not _is_no_better(facts):
        return False
    return facts.last_loss >= NO_BETTER * facts.prior_loss


def _nothing_learnt(facts: Facts) -> Finding | None:
    """Find that neither training nor validation became better than the prior."""
    if facts.prior_loss is None or not _is_at_prior(facts) or facts.steps < STANDSTILL:
        return None
    return Finding(
        "nothing learnt",
        f"neither training, loss {number_text(facts.last_loss)}, nor validation, "
        f"{number_text(float(facts.validated('loss').min()))} at best, is better than answering by "
        f"frequency alone, {number_text(facts.prior_loss)}: labels without information, or a model "
        "or learning rate that can't use it",
        f"another {source_field(facts)} (--show_batch shows inputs with their targets), "
        "optimizer.learning_rate" + "".join(f", {one}" for one in _larger(facts)),
    )


def _no_generalization(facts: Facts) -> Finding | None:
    """Find that training became better than the prior, perhaps by memorising, but validation did
    not."""
    if facts.prior_loss is None or not _is_no_better(facts):
        return None
    if facts.last_loss >= NO_BETTER * facts.prior_loss:
        return None
    right, beyond = facts.validated("accuracy"), _beyond_chance(facts)
    text = f"loss {number_text(float(facts.validated('loss').min()))} at best"
    if beyond is not None:
        count = int(facts.validated("examples")[-1])
        text += f", accuracy {percent_text(float(right.max()))} at best"
        if beyond <= 1:
            text += f", of {count:,} examples less than {percent_text(beyond)} may be chance"
        else:
            text += f", and {count:,} examples are too few to tell it from chance"
    return Finding(
        "no generalization",
        f"learnt in training, loss {number_text(facts.last_loss)}, and not in validation ({text}; "
        f"answering by frequency alone has a loss of {number_text(facts.prior_loss)}): "
        "overfitting, or labels without information",
        f"{', '.join(_against_overfitting(facts))}; or another {source_field(facts)} (--show_batch "
        "shows inputs with their targets)",
    )


def _overfitting(facts: Facts) -> Finding | None:
    """Find a validation loss that is above the training loss by `GAP`; or by `SMALL_GAP`, if it is
    also above the best validation loss by `REGRET`.

    A small gap alone is harmless, as training has seen its examples before. Any gap is harmless if
    the last validation loss is the best one by `REGRET`: the loss is still falling.
    """
    losses = facts.validated("loss")
    if not len(losses):
        return None
    gap, regret = losses[-1] - facts.last_loss, losses[-1] - losses.min()
    unit = facts.scale
    if len(losses) > 1 and losses[:-1].min() - losses[-1] >= REGRET * unit:
        return None
    if gap < SMALL_GAP * unit or (gap < GAP * unit and regret < REGRET * unit):
        return None
    epochs = facts.steps * facts.config.data.global_batch_size / max(facts.examples, 1)
    return Finding(
        "overfitting",
        f"the loss is {number_text(facts.last_loss)} in training and "
        f"{number_text(float(losses[-1]))} in validation{_precision(facts)}, after "
        f"{count_text(epochs)} times through {facts.examples:,} examples",
        ", ".join(_against_overfitting(facts)),
    )


def _precision(facts: Facts) -> str:
    """Return a text with the last accuracy and its error, or "" if the error is small."""
    right, examples = facts.validated("accuracy"), facts.validated("examples")
    if not len(right) or not len(examples) or not facts.classes:
        return ""
    count, share = max(int(examples[-1]), 1), float(right[-1])
    error = 2 * math.sqrt((share * (1 - share) + 1 / count) / count)
    if error <= PRECISE:
        return ""
    return f" ({count:,} examples alone: accuracy {percent_text(share)}, ± {100 * error:.0f} %)"


def _against_overfitting(facts: Facts) -> Iterator[str]:
    config, losses = facts.config, facts.validated("loss")
    yield "more data"
    if hasattr(config.data, "augmentation"):
        yield "data.augmentation"
    if hasattr(config.model, "dropout"):
        yield f"model.dropout={min(0.5, config.model.dropout + 0.2):g}"
    if len(losses) > 1 and losses[-1] > losses.min() and not config.train.stop_after_evaluations:
        yield "train.stop_after_evaluations=2"


def _larger(facts: Facts) -> list[str]:
    """Return settings that double the width or the depth of the model."""
    return [
        f"model.{name}={2 * getattr(facts.config.model, name)}"
        for name in ("width", "depth")
        if isinstance(getattr(facts.config.model, name, None), int)
    ]


def _underfitting(facts: Facts) -> Finding | None:
    """Find a training loss that stopped falling at `POOR` times the prior's loss or above."""
    prior = facts.prior_loss
    if not prior or facts.last_loss < POOR * prior or facts.steps < STANDSTILL:
        return None
    if facts.half_loss - facts.last_loss >= REGRET * prior:
        return None
    return Finding(
        "underfitting",
        f"the loss of training stands at {number_text(facts.last_loss)}, and answering by "
        f"frequency alone has {number_text(prior)}",
        " or ".join(_larger(facts)) or "a larger model",
    )
