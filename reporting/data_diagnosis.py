"""Checks the data for problems before the first step of a run, by rules on its statistics."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.schema.config import Config
from reporting.findings import Facts, Finding
from reporting.run_log import PREFIX
from reporting.wording import percent_text
from training.checkpoints import finished_steps

MOST_PADDING = 0.7
"""Padding is reported if it is at least this share of the positions. If all examples are padded to
the longest one, evenly distributed lengths lead to 50 % padding, and dates as people write them to
58 %. At 70 %, shorter batches would take less than a third of the work."""

CONSTANT = "constant input"

MOST_ALIKE = 0.5
"""Identical inputs are reported if they are at least this share of the inputs: most of the inputs
then can't be told apart."""

NEARLY_ALL, LEAST_INPUTS = 0.99, 10
"""A run is stopped before its first step if at least this share of its inputs are identical, and it
has at least this number of inputs. A user who tries a model on a single example has fewer."""

MOST_COPIED = 0.1
"""Examples that are in two splits are reported if they are at least this share of a split.
Recurring licences, boilerplate and short texts make up less than 3 %. If a tenth of the examples is
memorised, a metric changes by more than it differs between runs."""

IMBALANCE = 9
"""A class is reported as too frequent if it has at least this many times the mean size of the other
classes. With two classes, that is 90 % of the examples."""


def check_data(
    config: Config,
    workdir: Path,
    data_statistics: Callable[[], Mapping[str, Any]],
    notify: Callable[[str], None],
) -> None:
    """Warn through `notify` about problems in the data of a new run.

    data_statistics(): returns the fields of `Facts` that describe the data. It is not called if
        `workdir` has a checkpoint to resume from, because the user was warned at the first start.

    Raises `UsageError` if all or nearly all inputs are identical, or if no
    transcript can be learnt.
    """
    if finished_steps(workdir / "checkpoints"):
        return
    facts = Facts(config, **data_statistics())
    if is_constant(facts):
        raise UsageError(_constant_text(facts))
    if text := _unlearnable_text(facts):
        raise UsageError(text)
    for finding in data_findings(facts):
        notify(f"{PREFIX}{finding}")


def check_best_metric(
    config: Config, workdir: Path, validation: Any, notify: Callable[[str], None]
) -> None:
    """Raise `UsageError` if a new run ranks checkpoints by bits per byte, and the split
    `validation` has unknown tokens, so that bits per byte can't be computed. If the run resumes,
    only warn through `notify`: no checkpoint will then count as best."""
    asked = config.checkpoint.keep_best or config.train.stop_after_evaluations
    if not asked or config.checkpoint.best_metric != "bits_per_byte" or validation is None:
        return
    if validation.coded_bytes is not None:
        return
    text = (
        f"checkpoint.best_metric=bits_per_byte: {validation.unknown:,} of {validation.targets:,} "
        "tokens of validation are unknown to the tokenizer, so there are no bits per byte: use "
        "loss, or a data.tokenizer.kind that knows every text, such as bpe"
    )
    if not finished_steps(workdir / "checkpoints"):
        raise UsageError(text)
    notify(text)


def data_findings(facts: Facts) -> Iterator[Finding]:
    """Yield the findings that need only the statistics of the data."""
    alike = facts.commonest_input or 0.0
    is_alike = alike >= MOST_ALIKE
    if is_alike and facts.inputs >= LEAST_INPUTS:
        such = f", such as {facts.commonest_name}" if facts.commonest_name else ""
        yield Finding(
            CONSTANT,
            f"{percent_text(alike)} of the inputs are one and the same{such}",
            f"another {source_field(facts)} (--show_batch shows what the model sees)",
        )
    copied = {names: share for names, share in facts.copied.items() if share >= MOST_COPIED}
    if copied and not is_alike:
        shares = (
            f"{percent_text(share)} of {second} stands in {first} too"
            for (first, second), share in copied.items()
        )
        of = " and ".join(dict.fromkeys(second for _, second in copied))
        yield Finding(
            "duplicates between splits",
            f"{', '.join(shares)}, so that the metrics of {of} say little",
            f"{source_field(facts)} without them",
        )
    if finding := _imbalance(facts):
        yield finding
    if facts.padding is not None and facts.padding >= MOST_PADDING:
        data, remedy = facts.config.data, "a smaller data.sequence_length"
        if hasattr(data, "length_buckets"):
            remedy = f"data.length_buckets={2 * data.length_buckets}"
        yield Finding(
            "padding waste",
            f"{percent_text(facts.padding)} of the positions of training batches hold nothing",
            remedy,
        )


def is_constant(facts: Facts) -> bool:
    """Return whether nearly all inputs are identical."""
    share = facts.commonest_input or 0.0
    return share >= NEARLY_ALL and facts.inputs >= LEAST_INPUTS


def _constant_text(facts: Facts) -> str:
    """Return an error message about identical inputs, and how to look at them."""
    share, data = facts.commonest_input or 0.0, facts.config.data
    many = f"all {facts.inputs:,}" if share == 1 else f"{percent_text(share)} of {facts.inputs:,}"
    field = source_field(facts)
    such = f", such as {facts.commonest_name}" if facts.commonest_name else ""
    return (
        f"{CONSTANT}: {many} training inputs that were looked at are one and the same{such}, in "
        f"{field}={getattr(data, field.partition('.')[2])}: nothing can be learnt from them. The "
        f"same command with --show_batch shows what the model sees; give another {field}"
    )


def _unlearnable_text(facts: Facts) -> str | None:
    """Return an error message if every transcript is too long for its recording."""
    factor, most = getattr(facts.config.model, "subsampling", 1), facts.most_subsampling
    if most is None or most >= factor:
        return None
    remedy = "are these the transcripts of these recordings? Longer tokens need fewer positions"
    if most:
        remedy = f"use model.subsampling={1 if most == 1 else 2}"
    return (
        "nothing can be learnt: every transcript of train is too long for its recording. CTC needs "
        f"a position for each token, and model.subsampling={factor} makes one of {factor} frames: "
        f"{remedy}"
    )


def source_field(facts: Facts) -> str:
    """Return the name of the configuration field that selects the data."""
    return "data.path" if getattr(facts.config.data, "path", None) else "data.source"


def _imbalance(facts: Facts) -> Finding | None:
    """Find a class with at least half of the examples and `IMBALANCE` times the mean size of the
    others. Among a thousand classes, a frequent class with fewer examples is harmless. With
    `class_weights` nothing is reported, because the user knows about the imbalance."""
    classes = facts.classes or {}
    if len(classes) < 2 or getattr(facts.config.task, "class_weights", None):
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
