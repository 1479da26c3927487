"""Shows the progress of a run on standard error: a live bar on a terminal, plain lines
elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reporting.wording import (
    count_text,
    headline_metric,
    metric_text,
    number_text,
    seconds_text,
)

MEASURED_STEPS = 5
"""Number of steps to time before the duration of the run is estimated."""

SHORT_SECONDS = 10.0
"""A run shorter than this gets no estimate."""

SECONDS_BETWEEN_LINES = 5.0
"""Shortest time between two progress lines, when there is no terminal."""


@dataclass(frozen=True)
class _View:
    """A bar, with the text `head` to its left, `tail` to its right and `details` below."""

    head: str
    fraction: float | None  # None: the total is unknown.
    tail: str = ""
    details: str = ""
    since: float | None = None  # A start time: the tail then shows the seconds since.

    def __rich__(self) -> RenderableType:
        passed = "" if self.since is None else seconds_text(int(time.monotonic() - self.since))
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        bar = ProgressBar(total=1.0, completed=self.fraction or 0.0, pulse=self.fraction is None)
        row.add_row(Text(self.head), bar, Text(self.tail or passed))
        details = Text(self.details, style="dim", no_wrap=True, overflow="ellipsis")
        return Group(row, details) if self.details else row

    def __str__(self) -> str:
        return " · ".join(part for part in (self.head, self.details, self.tail) if part)


class _Pace:
    """Estimates the time of the remaining steps from the mean pace so far, without pauses."""

    def __init__(self):
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)
        self._paused = 0.0

    def pause(self, seconds: float) -> None:
        """Leave the last `seconds` out of the pace, because no step ran."""
        self._paused += seconds

    def reached(self, done: int) -> None:
        self._last = time.monotonic() - self._paused, done
        self._first = self._first or self._last

    def estimate(self, steps: int) -> str:
        """Return a text that says how long `steps` take. Return "" if fewer than `MEASURED_STEPS`
        are timed, or if they take less than `SHORT_SECONDS`."""
        (began, first), (now, done) = self._first or self._last, self._last
        if done - first < MEASURED_STEPS:
            return ""
        each = (now - began) / (done - first)
        if each * steps < SHORT_SECONDS:
            return ""
        return (
            f"about {seconds_text(each * steps)} for {steps:,} steps at {seconds_text(each)} a "
            "step, evaluations and checkpoints not counted"
        )

    def left(self, total: int) -> str:
        (began, first), (now, done) = self._first or self._last, self._last
        if done <= first or done >= total:
            return ""
        return f"{seconds_text(round((now - began) / (done - first) * (total - done)))} left"


class Progress:
    """Shows the preparation, compilation, steps and validations of a run on standard error.

    On a terminal, a thread draws the bar four times a second. A call of `update` only stores what
    to draw, so it costs little in every step. `stop()` leaves the last state of the bar on the
    screen.

    shown: False prints only notes, as in all processes of a run except the main one.
    """

    def __init__(self, *, shown: bool = True):
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        # `is_terminal` is not enough: FORCE_COLOR sets it for files too.
        self._has_bar = shown and self._console.is_interactive and sys.stderr.isatty()
        self._shown = shown
        self._live: Live | None = None
        self._view: Callable[[], _View] = lambda: _View("", None)
        self._line_at = float("-inf")
        self._pace = _Pace()
        self._stage: str | None = None
        self._stage_began = 0.0
        self._stages_within = 0  # nesting depth of `working`
        self._first_step = self._total = 0
        self._is_estimated = self._has_bar  # The bar shows an estimate all the time.
        self._metrics: dict[str, float] = {}
        self._validation = ""

    def note(self, text: str) -> None:
        """Print `text` as a line, above the bar if there is one."""
        self._console.print(Text(text), soft_wrap=True)

    def preparation(self, stage: str, done: int, total: int, unit: str) -> None:
        """Show that `done` of `total` files, records, ... are prepared. This is the `progress`
        argument of `prepare`.

        With done == total the stage ends: a line with its duration replaces the bar.
        """
        if stage != self._stage:
            self._stage, self._stage_began, self._pace = stage, time.monotonic(), _Pace()
        if done == total:
            self._stage = None
            self._hide()
            passed = seconds_text(time.monotonic() - self._stage_began)
            self._line(f"{stage}: {done:,} {unit} in {passed}")
        else:
            head, pace = f"{stage}: {done:,}/{total:,} {unit}", self._pace
            pace.reached(done)
            self._show(lambda: _View(head, done / total, pace.left(total)))
            self._line_if_due()

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show `text`, such as "evaluating", on a terminal while the context is open. The time in
        the context does not count as time of steps."""
        before, shown, began = self._view, self._live is not None, time.monotonic()
        now = _View(text, None, details=before().details, since=began)
        self._show(lambda: now)
        self._stages_within += 1
        try:
            yield
        finally:
            self._stages_within -= 1
            if not self._stages_within:
                self._pace.pause(time.monotonic() - began)
            self._view = before
            if not shown:
                self._hide()

    @contextmanager
    def compiling(self, text: str) -> Iterator[None]:
        """Print that `text` is compiled in this context; at its end, print the time and whether the
        compilation cache was used."""
        from jax import monitoring

        found = []

        def listen(event: str, **_) -> None:
            if event == "/jax/compilation_cache/cache_hits":
                found.append(event)

        began = time.monotonic()
        if not self._has_bar:
            self._line(f"compiling {text}")
        monitoring.register_event_listener(listen)
        try:
            with self.working(f"compiling {text}"):
                yield
        finally:
            monitoring.unregister_event_listener(listen)
        cached = " (from the cache)" if found else ""
        self._line(f"compiled {text} in {seconds_text(time.monotonic() - began)}{cached}")

    def start(self, total: int, first_step: int) -> None:
        """Start the bar of `total` steps, of which `first_step` are done."""
        self._stage = None
        self._first_step, self._total = first_step, total
        self._pace, self._line_at = _Pace(), float("-inf")
        self._show(lambda: _View(f"step {first_step:,}/{total:,}", first_step / total))

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show the metrics of `step`. Without a terminal, print a line if the step was logged (its
        metrics include rates) and the last line is not too recent."""
        self._metrics |= metrics
        self._pace.reached(step)
        self._show(lambda: self._after(step))
        if "step_seconds" in metrics:
            self._estimate_once(step)
            self._line_if_due(at_any_rate=step == self._total)

    def validation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Print all metrics of a validation, and keep its headline metric below the bar."""
        name = headline_metric(metrics)
        self._validation = f"validation {metric_text(name, metrics[name])}"
        texts = [metric_text(name, value) for name, value in metrics.items() if name != "examples"]
        self._line(f"step {step:,}: validation {', '.join(texts)}")

    def stop(self) -> None:
        """End the bar, and leave its last state on the screen."""
        drawn = self._live is not None
        self._hide()
        if drawn and self._stage is None:
            self._console.print(self._view())

    def _estimate_once(self, step: int) -> None:
        """Print the estimated duration of the run once, as soon as it can be estimated."""
        estimate = self._pace.estimate(self._total - self._first_step)
        if estimate and not self._is_estimated and step < self._total:
            self._is_estimated = True
            self._line(estimate)

    def _line(self, text: str) -> None:
        if self._shown:
            self.note(text)

    def _after(self, step: int) -> _View:
        left = self._pace.left(self._total)
        head = f"step {step:,}/{self._total:,}"
        return _View(head, step / self._total, left, " · ".join(self._details()))

    def _details(self) -> Iterator[str]:
        if "loss" in self._metrics:
            yield f"loss {number_text(self._metrics['loss'])}"
        for unit in ("tokens", "examples"):
            if f"{unit}_per_second" in self._metrics:
                yield f"{count_text(self._metrics[f'{unit}_per_second'])} {unit}/s"
                break
        if self._validation:
            yield self._validation

    def _line_if_due(self, *, at_any_rate: bool = False) -> None:
        """Print the view as a line if there is no bar and the last line is at least
        `SECONDS_BETWEEN_LINES` old."""
        now = time.monotonic()
        if not self._has_bar and (at_any_rate or now - self._line_at >= SECONDS_BETWEEN_LINES):
            self._line_at = now
            self._line(str(self._view()))

    def _show(self, view: Callable[[], _View]) -> None:
        self._view = view
        if self._has_bar and self._live is None:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: self._view(),
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,  # Results go there, also while the bar is drawn.
            )
            self._live.start()

    def _hide(self) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()
