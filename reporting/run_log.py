"""What is told of a run: its messages, its metrics, and its report."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.files import make_folder, write_durably
from configs.schema.config import Config
from reporting.metric_log import MetricLog, read_metrics
from reporting.progress import Progress
from reporting.start_summary import Rows, aligned
from reporting.wandb_log import WandbLog

PREFIX = "diagnosis: "
"""Of each line of the diagnosis, where it stands among other lines."""


class RunLog:
    """The words and figures of one run, over all its sittings.

    about: what the report says of the run beside its metrics: `parameters`; `tokens_per_example`
    and `gzip_bits_per_byte` where they apply; under `pages` further arguments of `write_report`.
    origin: whose parameters the run began with, as JSON; None for fresh ones.
    Only the process that `open`s it writes to the workdir; the others show messages alone.
    """

    def __init__(
        self,
        config: Config,
        workdir: Path,
        progress: Progress,
        *,
        about: Mapping[str, Any],
        tuned: Mapping[str, str],
        origin: Mapping[str, Any] | None,
    ):
        self._config, self._workdir, self._progress = config, workdir, progress
        self._about, self._tuned = about, tuned
        self._logs: list[MetricLog | WandbLog] = []
        self._warnings: list[str] = []
        self._events: list[str] = []
        self._told: set[str] = set()  # By this sitting; warnings are of earlier ones too.
        self._origin = origin
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def open(self, first_step: int) -> None:
        """Begins to write the metrics of the steps after `first_step`."""
        self._logs.append(MetricLog(self._workdir, first_step=first_step, notify=self.notify))
        if self._config.train.wandb_project is not None:
            self._logs.append(WandbLog(self._config, self._workdir, self.info))

    def notify(self, text: str) -> None:
        """Shows a warning: a line above the progress, highlighted in the report."""
        self._warnings.append(text)
        self._told.add(text)
        self._progress.note(text)

    def info(self, text: str) -> None:
        """Shows an ordinary event: a line above the progress, and a plain one in the report."""
        self._events.append(text)
        self._progress.note(text)

    def start(self, rows: Rows, *, first_step: int) -> None:
        """Shows what the run is, in the report too; in one line where it goes on. Only the process
        that writes shows it."""
        self._about = {**self._about, "pages": {**self._about.get("pages", {}), "start": rows}}
        lines = aligned(rows)
        if first_step:
            told = dict(rows)
            lines = [f"{told['length']}; {told['devices']}"]
        for line in lines if self._logs else ():
            self._progress.note(line)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of metrics.jsonl, and the same elsewhere, if this is the process that writes."""
        for log in self._logs:
            log.write(step, metrics)

    def write_samples(self, step: int, texts: Sequence[str]) -> None:
        """What the model wrote after `step`, as a file in samples/, likewise."""
        if self._logs and texts:
            folder = self._workdir / "samples"
            make_folder(folder)
            write_durably(folder / f"step-{step:08d}.txt", "\n".join(texts))

    @property
    def history(self) -> dict[str, Any]:
        """What a checkpoint keeps of the run's past."""
        return {
            "seconds": self._seconds(),
            "notices": self._warnings,
            "events": self._events,
            "initialized_from": self._origin,
        }

    def go_on_from(self, history: Mapping[str, Any]) -> None:
        """Takes up what earlier sittings told, up to their last checkpoint, each line once."""
        self._seconds_before = history["seconds"]
        self._origin = history.get("initialized_from")  # Not there in checkpoints from before it.
        self._warnings = _joined(history["notices"], self._warnings)
        # Not there in older checkpoints, which kept events among the notices.
        self._events = _joined(history.get("events", ()), self._events)

    def report(
        self, status: str, step: int, *, test: Mapping[str, float] | None = None, **pages: Any
    ) -> Path | None:
        """Writes report.html after `step` steps, and tells the lines of its diagnosis; None where
        another process does."""
        if not self._logs:
            return None
        from reporting.report.machine import environment  # slow to import, and for the end only
        from reporting.report.page import write_report

        about, examples = self._about, step * self._config.data.global_batch_size
        summary = {
            "name": str(self._workdir),
            "status": status,
            "step": step,
            "steps": self._config.train.steps,
            "parameters": about["parameters"],
            "seconds": self._seconds(),
            "examples": examples,
        }
        if about.get("tokens_per_example") is not None:
            summary["tokens"] = examples * about["tokens_per_example"]
        if about.get("gzip_bits_per_byte") is not None:
            summary["gzip_bits_per_byte"] = about["gzip_bits_per_byte"]
        if test is not None:
            summary["test"] = test
        diagnosis = [f"{PREFIX}{line}" for line in pages.get("diagnosis", ())]
        new = [line for line in diagnosis if line not in self._told]
        if diagnosis and not new:
            new = [f"{PREFIX}nothing else stands out than what was told before the first step"]
        for line in new:
            self._progress.note(line)
        return write_report(
            self._workdir,
            summary=summary,
            config=self._config,
            environment=environment(self._tuned),
            metrics=read_metrics(self._workdir),
            warnings=[line for line in self._warnings if line not in diagnosis],
            events=self._events,
            **about.get("pages", {}),
            **pages,
        )

    def close(self) -> None:
        """Writes what is still held back."""
        for log in self._logs:
            log.close()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _joined(earlier: Sequence[str], now: Sequence[str]) -> list[str]:
    """Returns the lines of earlier sittings, then those of this one that are new."""
    return [*earlier, *(line for line in now if line not in earlier)]
