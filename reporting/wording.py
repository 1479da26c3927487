"""Formats numbers for people: durations, counts, sizes, rates and metrics."""

import math
from collections.abc import Mapping

NAMES = {
    "accuracy_top5": "top-5 accuracy",
    "bleu": "BLEU",
    "chrf": "chrF",
    "wer": "word error rate",
    "cer": "character error rate",
}
"""Metrics with a readable name that is not the key with spaces."""

SHARES = ("accuracy", "accuracy_top5", "exact_match", "wer", "cer")
POINTS = ("bleu", "chrf")
"""Metrics that are fractions (1 is 100 %), and metrics on a scale of 100."""


def seconds_text(seconds: float) -> str:
    """Format a duration: `0.42 s`, `12 s`, `3 min 20 s`, `2 h 3 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for size, unit, small, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // small} {smaller}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def count_text(number: float) -> str:
    """Format a count or rate: `12,400`, or `1.24 M` if it is at least a million."""
    if not math.isfinite(number):
        return str(number)
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}" if abs(number) >= 10 or number == int(number) else f"{number:.2g}"


def bytes_text(size: int) -> str:
    """Format a number of bytes: `312 bytes`, `4.2 kB`, `1.24 GB`."""
    for unit_size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.9995 * unit_size:
            return f"{size / unit_size:.3g} {unit}"
    return f"{size} bytes"


def number_text(number: float) -> str:
    """Format a loss or a norm: four decimals, or three digits if it is very small or large."""
    size = abs(number)
    if not math.isfinite(number) or number == 0:
        return str(number)
    return f"{number:.4f}" if 0.01 <= size < 1000 else f"{number:.3g}"


def percent_text(share: float) -> str:
    """Format a share as a percentage: 0.978 as `97.8 %`."""
    return f"{100 * share:.1f} %"


def name_text(name: str) -> str:
    """Return the readable name of a metric: `top-5 accuracy` for `accuracy_top5`."""
    return NAMES.get(name, name.replace("_", " "))


def value_text(name: str, value: float) -> str:
    """Format the value of a metric, without its name."""
    if name in SHARES:
        return percent_text(value)
    if name in POINTS:
        return f"{value:.1f}"
    if name == "bits_per_byte":
        return f"{value:.3f}"
    return f"{value:.4g}" if name == "perplexity" else number_text(value)


def metric_text(name: str, value: float) -> str:
    """Format a metric with its name or unit: `loss 1.9123`, `1.732 bits per byte`, `accuracy 97.8
    %`."""
    if name == "bits_per_byte":
        return f"{value_text(name, value)} {name_text(name)}"
    return f"{name_text(name)} {value_text(name, value)}"


def metrics_line(split: str, counts: Mapping[str, int], metrics: Mapping[str, float]) -> str:
    """Format all metrics of a split, each with its key: `test: windows 2, conversations 9, loss
    1.5`.

    counts: the size of the split in its units, such as windows; shown instead of the metric
    `examples`.
    """
    figures = {**counts, **{name: value for name, value in metrics.items() if name != "examples"}}
    texts = (
        f"{name} {f'{value:,}' if isinstance(value, int) else f'{value:.6g}'}"
        for name, value in figures.items()
    )
    return f"{split}: {', '.join(texts)}"


def better_step_text(name: str, step: int, value: float) -> str:
    """Return a message that names the best step by the metric `name`, its value, and the option
    that selects it."""
    value_there = f"the best {name_text(name)} was {value_text(name, value)}"
    return f"{value_there}, at step {step}: --step=best takes it"


def headline_metric(metrics: Mapping[str, float], chosen: str = "loss") -> str:
    """Return the name of the metric that best describes a model.

    This is `chosen`, the metric that ranks the checkpoints (`checkpoint.best_metric`), if it is in
    `metrics` and is not the loss. Otherwise it is the first of these that `metrics` has:

    - bits per byte, which are comparable across tokenizers;
    - BLEU or word error rate, which judge the generated texts themselves;
    - the accuracy, unless there is a perplexity, as for language models;
    - the loss.
    """
    if chosen in metrics and chosen != "loss":
        return chosen
    for name in ("bits_per_byte", "bleu", "wer"):
        if name in metrics:
            return name
    return "accuracy" if "accuracy" in metrics and "perplexity" not in metrics else "loss"
