"""Shows the messages of a run, and writes its metrics, its events and its report."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.files import make_folder, write_durably
from configs.schema.config import Config
from reporting.event_log import EventLog, read_events
from reporting.goodput import goodput
from reporting.metric_log import MetricLog, read_metrics
from reporting.progress import Progress
from reporting.start_summary import Rows, aligned
from reporting.wandb_log import WandbLog

PREFIX = "diagnosis: "
"""Prefix of every message from the diagnosis."""


class RunLog:
    """Shows and stores the messages and metrics of one run, across all its restarts.

    Only the process that calls `open` writes to the workdir. Other processes only show messages.

    metadata: numbers for the report: `parameters`, and `tokens_per_example` and
        `gzip_bits_per_byte` if they apply.
    tuned: the flags that `set_environment` set.
    initialized_from: a description, as JSON, of the model that the run was initialised from; None
        for fresh parameters.
    pages: further arguments of `write_report`.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        progress: Progress,
        *,
        metadata: Mapping[str, Any],
        tuned: Mapping[str, str],
        initialized_from: Mapping[str, Any] | None = None,
        **pages: Any,
    ):
        self._config, self._workdir, self._progress = config, workdir, progress
        self._metadata, self._tuned, self._pages = metadata, tuned, pages
        self._logs: list[MetricLog | WandbLog] = []
        self._event_log: EventLog | None = None
        self._early_events: list[tuple[str, int, str]] = []
        self._warnings: list[str] = []
        self._events: list[str] = []
        self._warned: set[str] = set()  # since this start; `_warnings` also has older ones
        self._initialized_from = initialized_from
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def open(self, first_step: int) -> None:
        """Open the log of events, and the logs of metrics (metrics.jsonl, TensorBoard and, if
        configured, Weights & Biases) for the steps after `first_step`."""
        self._event_log = EventLog(self._workdir)
        for event in self._early_events:
            self._event_log.write(*event)
        self._logs.append(MetricLog(self._workdir, first_step=first_step, notify=self.warn))
        if self._config.train.wandb_project is not None:
            self._logs.append(WandbLog(self._config, self._workdir, self.info))

    def warn(self, text: str) -> None:
        """Show a warning above the progress bar, and highlight it in the report."""
        self._warnings.append(text)
        self._warned.add(text)
        self._progress.note(text)

    def info(self, text: str) -> None:
        """Show an event above the progress bar, and list it in the report."""
        self._events.append(text)
        self._progress.note(text)

    def event(self, event: str, step: int, what: str = "") -> None:
        """Write an event (`reporting.event_log`) to events.jsonl, if need be once it is open. Any
        thread may call this."""
        if self._event_log is not None:
            self._event_log.write(event, step, what)
        else:
            self._early_events.append((event, step, what))

    def take(self, warnings: Sequence[str], events: Sequence[str]) -> None:
        """Show and store messages from before this log was created."""
        for text in warnings:
            self.warn(text)
        for text in events:
            self.info(text)

    def start(self, rows: Rows, *, first_step: int) -> None:
        """Show the summary of the run, and add it to the report.

        rows: from `summarize_start`.
        first_step: if it is not 0, the run resumes, and the summary is shown as one line.

        Only the process that writes shows the summary.
        """
        self._pages["start"] = rows
        lines = list(aligned(rows))
        if first_step:
            texts = dict(rows)
            lines = [f"{texts['length']}; {texts['devices']}"]
        for line in lines if self._logs else ():
            self._progress.note(line)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of `step` to metrics.jsonl, TensorBoard and Weights & Biases."""
        for log in self._logs:
            log.write(step, metrics)

    def write_samples(self, step: int, texts: Sequence[str]) -> None:
        """Write the texts that the model generated at `step` to a file in samples/."""
        if self._logs and texts:
            folder = self._workdir / "samples"
            make_folder(folder)
            write_durably(folder / f"step-{step:08d}.txt", "\n".join(texts))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of all logged steps and evaluations."""
        return read_metrics(self._workdir)

    @property
    def history(self) -> dict[str, Any]:
        """Return what checkpoints store of this log: run time, messages, `initialized_from`."""
        return {
            "seconds": self._seconds(),
            "notices": self._warnings,
            "events": self._events,
            "initialized_from": self._initialized_from,
        }

    def go_on_from(self, step: int, history: Mapping[str, Any]) -> None:
        """Continue the log of checkpoint `step`. history: the `history` that it stored. A message
        that was shown before and after the restart is kept once."""
        self._seconds_before = history["seconds"]
        self._initialized_from = history.get("initialized_from")  # Older checkpoints have none.
        self._warnings = _joined(history["notices"], self._warnings)
        # Older checkpoints have no events: they kept them among the notices.
        self._events = _joined(history.get("events", ()), self._events)
        self.event("resumed", step, f"from checkpoint {step}")
        self.info(f"going on from checkpoint {step}")

    def go_back_to(self, step: int) -> None:
        """Cut the log of metrics to `step`, an earlier one, from which the run goes on."""
        for number, log in enumerate(self._logs):
            if isinstance(log, MetricLog):
                log.close()
                self._logs[number] = MetricLog(self._workdir, first_step=step, notify=self.info)

    def report(
        self, status: str, step: int, *, test: Mapping[str, float] | None = None, **pages: Any
    ) -> Path | None:
        """Write report.html, show the lines of its diagnosis, and return the path of the file.

        status: the state of the run, such as "finished".
        step: the number of steps done.
        test: metrics of the test split.
        pages: further arguments of `write_report`.

        Returns None in a process that does not write.
        """
        if not self._logs:
            return None
        from reporting.report.machine import environment  # slow to import
        from reporting.report.page import Summary, write_report

        examples = step * self._config.data.global_batch_size
        summary: Summary = {
            "name": str(self._workdir),
            "status": status,
            "step": step,
            "steps": self._config.train.steps,
            "parameters": self._metadata["parameters"],
            "seconds": self._seconds(),
            "examples": examples,
        }
        if self._metadata.get("tokens_per_example") is not None:
            summary["tokens"] = examples * self._metadata["tokens_per_example"]
        if self._metadata.get("gzip_bits_per_byte") is not None:
            summary["gzip_bits_per_byte"] = self._metadata["gzip_bits_per_byte"]
        metrics, now = self.read_metrics(), datetime.now(UTC)
        if (share := goodput(metrics, read_events(self._workdir), now)) is not None:
            summary["goodput"] = share
        if test is not None:
            summary["test"] = test
        diagnosis = [f"{PREFIX}{line}" for line in pages.get("diagnosis", ())]
        new = [line for line in diagnosis if line not in self._warned]
        if diagnosis and not new:
            new = [f"{PREFIX}nothing else stands out than what was told before the first step"]
        for line in new:
            self._progress.note(line)
        return write_report(
            self._workdir,
            summary=summary,
            config=self._config,
            environment=environment(self._tuned),
            metrics=metrics,
            warnings=[line for line in self._warnings if line not in diagnosis],
            events=self._events,
            **self._pages,
            **pages,
        )

    def close(self) -> None:
        """Flush and close all logs."""
        for log in self._logs:
            log.close()
        if self._event_log is not None:
            event_log, self._event_log = self._event_log, None
            event_log.close()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _joined(earlier: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return the earlier lines, then each new one that is not among them."""
    return [*earlier, *(line for line in now if line not in earlier)]
