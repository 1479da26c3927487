"""Writes the report page: metrics, curves, samples or predictions, configuration, environment."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Required, TypedDict

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from configs.files import write_durably
from configs.reading.fields import flatten, format_value
from configs.schema.config import Config
from reporting.report import charts
from reporting.report.pictures import attention_view, filter_sheet, frames_picture, picture_url
from reporting.report.predictions import Predictions
from reporting.wording import (
    count_text,
    headline_metric,
    metric_text,
    name_text,
    number_text,
    percent_text,
    seconds_text,
    value_text,
)
from tasks.registry import TASKS

NAME = "report.html"

# Limits that keep the file below two megabytes. The page says how much was left out.
MOST_SAMPLES, MOST_CHARACTERS = 20, 20_000
MOST_MESSAGES = 200
MOST_CLASSES = 30
MOST_PAIRS = 20
MOST_MISTAKES = 20
MOST_CHARACTERS_OF_A_MISTAKE = 600

HIGHER_IS_BETTER = frozenset().union(*(task.higher_is_better for task in TASKS.values()))

Metrics = Sequence[dict[str, Any]]
Example = np.ndarray | str
"""An image, uint8 [H, W, C] with C of 1, 3 or 4; the frames of a recording; or a text."""


_TARGETS = {"classification": "example", "speech_recognition": "label"}
"""What the loss of a task is averaged over, if not over tokens."""


class Summary(TypedDict, total=False):
    """The numbers that describe the run as a whole."""

    name: Required[str]
    status: Required[str]  # "finished", "stopped by SIGTERM", ...
    step: Required[int]
    steps: Required[int]
    parameters: Required[int]
    seconds: Required[float]
    examples: int  # Consumed in training.
    tokens: int  # Consumed in training, for data with tokens.
    goodput: float  # Share of the time since the first start (`reporting.goodput`).
    gzip_bits_per_byte: float  # The validation split's files, each compressed alone.
    test: Mapping[str, float]  # Metrics of the test split, if there is one.


def write_report(
    workdir: Path,
    *,
    summary: Summary,
    config: Config,
    environment: Mapping[str, Any],
    metrics: Metrics,
    samples: Sequence[Mapping[str, str]] = (),
    predictions: Predictions | None = None,
    example: Callable[[int], Example] | None = None,
    filters: np.ndarray | None = None,
    attention: Sequence[np.ndarray] = (),
    attended: np.ndarray | Sequence[str] = (),
    warnings: Sequence[str] = (),
    events: Sequence[str] = (),
    diagnosis: Sequence[str] = (),
    data: Sequence[Sequence[str]] = (),
    start: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write `report.html` into the workdir, atomically, and return its path.

    environment: from `environment()` in machine.py.
    metrics: from `read_metrics`.
    samples: texts by name, as `reporting.samples.Sample`.
    predictions: the predictions of a classifier, of which the page shows the mistakes with the
        highest probability.
    example(i): returns example i of the split of `predictions`.

    filters: the filters of the first layer, float [N, h, w, C].
    attention: each layer's weights, [heads, T, T], on `attended`, which is an image or the T
        tokens of a text.

    warnings, events: messages, one sentence each.
    diagnosis: from `verdict`.
    data: a table of the splits, header first.
    start: from `summarize_start`.
    """
    template = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html.jinja")
    page = template.render(
        summary=summary,
        headlines=list(_headlines(summary, metrics, config)),
        warnings=[*map(_printable, _shorten([*warnings, *_poisoned(metrics)]))],
        events=[*map(_printable, _shorten(events))],
        diagnosis=diagnosis,
        charts=[chart for chart in _charts(metrics, summary, config) if chart is not None],
        samples=[
            {name: _printable(text) for name, text in sample.items()}
            for sample in samples[:MOST_SAMPLES]
        ],
        samples_left_out=max(0, len(samples) - MOST_SAMPLES),
        predictions=_predictions(predictions) if predictions is not None else None,
        mistakes=list(_mistakes(predictions, example)) if predictions and example else [],
        filters=filter_sheet(filters) if filters is not None else None,
        attention=attention_view(attention, attended),
        data=data,
        start=start,
        config=_config_rows(config),
        environment=environment,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    path = workdir / NAME
    # A command line or path may have bytes that are not UTF-8. Python keeps them as surrogates.
    write_durably(path, page.encode("utf-8", errors="replace"))
    return path


# ---- Headline numbers.


def _headlines(
    summary: Summary, metrics: Metrics, config: Config
) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, note) for each headline number at the top of the page."""
    if "test" in summary:
        name = headline_metric(summary["test"], config.checkpoint.best_metric)
        yield (
            f"Test {name_text(name)}",
            value_text(name, summary["test"][name]),
            "after the last step",
        )
    validations = [line for line in metrics if "validation/loss" in line]
    if validations:
        last = {key.removeprefix("validation/"): value for key, value in validations[-1].items()}
        chosen = headline_metric(last, config.checkpoint.best_metric)
        note = _best(validations, chosen, max if chosen in HIGHER_IS_BETTER else min)
        if chosen == "bits_per_byte":
            note = _beside_gzip(last[chosen], summary) or note
            yield "Bits per byte", value_text(chosen, last[chosen]), note
        elif chosen != "loss":
            yield f"Validation {name_text(chosen)}", value_text(chosen, last[chosen]), note
        yield "Validation loss", number_text(last["loss"]), _best(validations, "loss", min)
    losses = charts.curve(metrics, "loss", "").values[-10:]
    if losses:
        note = f"mean of the last {len(losses)} logged steps" if len(losses) > 1 else ""
        yield "Training loss", number_text(math.fsum(losses) / len(losses)), note
    done = f"{summary['step']:,}"
    consumed = [
        f"{count_text(summary[unit])} {unit}" for unit in ("tokens", "examples") if unit in summary
    ]
    if summary["step"] != summary["steps"]:
        done += f" of {summary['steps']:,}"
    yield "Steps", done, ", ".join(consumed)
    yield "Time", seconds_text(summary["seconds"]), _median_rate(metrics)
    if "goodput" in summary:
        yield "Goodput", percent_text(summary["goodput"]), "of the time, in steps that counted"
    yield "Parameters", count_text(summary["parameters"]), config.model.architecture


def _beside_gzip(bits_per_byte: float, summary: Summary) -> str:
    gzip = summary.get("gzip_bits_per_byte")
    if gzip is None or not math.isfinite(bits_per_byte):
        return ""
    share = percent_text(abs(1 - bits_per_byte / gzip))
    return f"{share} {'below' if bits_per_byte < gzip else 'above'} gzip -9 ({gzip:.3f})"


def _best(validations: Metrics, name: str, choose: Callable[..., float]) -> str:
    curve = charts.curve(validations, f"validation/{name}", "")
    if len(curve.steps) < 2:
        return ""
    best = choose(curve.values)
    step = curve.steps[curve.values.index(best)]
    if step == validations[-1]["step"]:
        return f"the best of {len(curve.steps)} validations"
    return f"best: {metric_text(name, best)} at step {step:,}"


def _median_rate(metrics: Metrics) -> str:
    for unit in ("tokens", "examples"):
        rates = charts.curve(metrics, f"{unit}_per_second", "").values
        if rates:
            return f"{count_text(statistics.median(rates))} {unit}/s"
    return ""


def _poisoned(metrics: Metrics) -> list[str]:
    losses = {line["step"]: line["loss"] for line in metrics if "loss" in line}
    poisoned = [step for step, loss in losses.items() if not math.isfinite(loss)]
    if not poisoned:
        return []
    return [
        f"the loss was not finite at {len(poisoned):,} of {len(losses):,} logged steps, "
        f"first at step {poisoned[0]:,}"
    ]


# ---- Curves.


def _charts(metrics: Metrics, summary: Summary, config: Config) -> Iterator[charts.Chart | None]:
    target = _TARGETS.get(config.task.name, "token")
    tokens = any("tokens_per_second" in line for line in metrics)
    curve, draw, second = charts.curve, charts.draw, charts.SECOND
    yield draw(
        "Loss",
        f"nats per {target}",
        [
            curve(metrics, "loss", "training", smooth=True),
            curve(metrics, "validation/loss", "validation", colour=second, best=min),
        ],
        charts.PLAIN,
        clip_beginning=True,
    )
    if any("validation/bits_per_byte" in line for line in metrics):
        gzip = summary.get("gzip_bits_per_byte")
        yield draw(
            "Bits per byte",
            "of the validation files" + (", and what gzip -9 makes of each" if gzip else ""),
            [curve(metrics, "validation/bits_per_byte", "model", colour=second, best=min)],
            charts.PLAIN,
            clip_beginning=True,
            reference=("gzip -9", gzip) if gzip else None,
        )
    elif any("validation/accuracy" in line for line in metrics):
        yield draw(
            "Accuracy",
            f"share of the {target}s",
            [
                curve(metrics, "accuracy", "training", smooth=True),
                curve(metrics, "validation/accuracy", "validation", colour=second, best=max),
            ],
            charts.SHARES,
        )
    for title, name, numbers in (
        ("Exact match", "exact_match", charts.SHARES),
        ("BLEU", "bleu", charts.PLAIN),
        ("Word error rate", "wer", charts.SHARES),
    ):
        if any(f"validation/{name}" in line for line in metrics):
            best = max if name in HIGHER_IS_BETTER else min
            answers = curve(metrics, f"validation/{name}", "validation", colour=second, best=best)
            yield draw(title, "of written answers", [answers], numbers)
    unit = "tokens" if tokens else "examples"
    for title, subtitle, key, numbers, limits in (
        ("Learning rate", "", "learning_rate", charts.PLAIN, (0, None)),
        ("Gradient norm", "before clipping", "gradient_norm", charts.PLAIN, None),
        ("Update ratio", "of a step to the parameters", "update_ratio", charts.PLAIN, None),
        ("Throughput", f"{unit} per second", f"{unit}_per_second", charts.COUNTS, (0, None)),
        ("Utilisation", "model FLOPs, share of the peak", "mfu", charts.SHARES, (0, 1)),
        ("Input wait", "share of the step's time", "input_wait_fraction", charts.SHARES, (0, 1)),
    ):
        smooth = key != "learning_rate"
        yield draw(
            title, subtitle, [curve(metrics, key, "", smooth=smooth)], numbers, limits=limits
        )


# ---- Samples, predictions, and the mistakes of highest probability.

_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def _printable(text: str, most: int = MOST_CHARACTERS) -> str:
    """Return text that a page can show: control characters become symbols, and a long text is
    cut."""
    shown = text[:most].translate(_VISIBLE)
    more = len(text) - most
    return shown if more <= 0 else f"{shown}\n... and {more:,} more characters"


def _predictions(predictions: Predictions) -> dict[str, Any]:
    """Return the table of classes and, if there are few classes, the confusion matrix, else the
    most frequent confusions."""
    classes = predictions.classes
    found: dict[str, Any] = {"counts": None, "shades": None, "pairs": []}
    if len(classes) <= MOST_CLASSES:
        counts = predictions.confusion()
        wrong = counts - np.diag(np.diag(counts))
        # Strength of a cell's colour: its count relative to the most frequent confusion.
        found |= {"counts": counts.tolist(), "shades": (wrong / max(1, wrong.max())).tolist()}
    else:
        found |= {"pairs": predictions.commonest_confusions(MOST_PAIRS)}
    total, right = len(predictions.label), predictions.right
    return found | {
        "split": predictions.split,
        "classes": classes,
        "total": total,
        "right": right,
        "mistakes_left_out": max(0, total - right - MOST_MISTAKES),
        "table": predictions.table(),
    }


def _mistakes(
    predictions: Predictions, example: Callable[[int], Example]
) -> Iterator[dict[str, Any]]:
    """Yield mistakes with the highest probability: the example (a text, or an image's data URL),
    its class, and the predicted class."""
    for row in predictions.surest_mistakes(MOST_MISTAKES):
        shown = example(int(predictions.example[row]))
        text = picture = None
        if isinstance(shown, str):
            text = _printable(shown, MOST_CHARACTERS_OF_A_MISTAKE)
        else:
            picture = picture_url(frames_picture(shown) if shown.ndim == 2 else shown)
        yield {
            "text": text,
            "picture": picture,
            "label": predictions.classes[predictions.label[row]],
            "prediction": predictions.classes[predictions.prediction[row]],
            "probability": percent_text(predictions.probability[row]),
        }


# ---- Messages and configuration.


def _shorten(messages: Sequence[str]) -> list[str]:
    left_out = len(messages) - MOST_MESSAGES
    if left_out <= 0:
        return [*messages]
    half = MOST_MESSAGES // 2
    return [*messages[:half], f"... {left_out:,} more ...", *messages[-half:]]


def _config_rows(config: Config) -> list[dict[str, Any]]:
    """Return every field of the configuration: its path, value and meaning, and its default if the
    value differs."""
    defaults = flatten(Config())
    rows = []
    for path, field in flatten(config).items():
        # A section of another kind than in Config() has the defaults of that kind.
        default = defaults[path].value if path in defaults else field.info.default
        rows.append(
            {
                "field": path,
                "value": format_value(field.value),
                "default": format_value(default) if field.value != default else None,
                "meaning": field.info.description,
            }
        )
    return rows
