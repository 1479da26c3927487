"""What is told of a run: its notices, its metrics, and its report."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from configs import Config
from configs.files import make_folder, write_durably
from training.metric_log import MetricLog, read_metrics
from training.progress import Progress
from training.wandb_log import WandbLog


class Record:
    """The words and figures of one run, over all its sittings.

    about: what the report says of the run beside its metrics: `parameters`; `tokens_per_example`
    and `gzip_bits_per_byte` where they apply; under `pages` further arguments of `write_report`.
    origin: whose parameters the run began with, as JSON; None for fresh ones.
    Only the process that `open`s it writes to the workdir; the others tell of nothing but notices.
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
        self._notices: list[str] = []
        self._origin = origin
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def open(self, first_step: int) -> None:
        """Begins to write the metrics of the steps after `first_step`."""
        self._logs.append(MetricLog(self._workdir, first_step=first_step, notify=self.notify))
        if self._config.train.wandb_project is not None:
            self._logs.append(WandbLog(self._config, self._workdir, self.notify))

    def notify(self, text: str) -> None:
        """A line that stands above the progress, and in the report."""
        self._notices.append(text)
        self._progress.note(text)

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
            "notices": self._notices,
            "initialized_from": self._origin,
        }

    def go_on_from(self, history: Mapping[str, Any]) -> None:
        """Takes up what earlier sittings told, up to their last checkpoint, each line once."""
        self._seconds_before = history["seconds"]
        self._origin = history.get("initialized_from")  # Not there in checkpoints from before it.
        told = list(history["notices"])
        self._notices = told + [line for line in self._notices if line not in told]

    def report(
        self, status: str, step: int, *, test: Mapping[str, float] | None = None, **pages: Any
    ) -> Path | None:
        """Writes report.html after `step` steps, and tells the lines of its diagnosis; None where
        another process does."""
        if not self._logs:
            return None
        from training.report.machine import environment  # slow to import, and for the end only
        from training.report.page import write_report

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
        for line in pages.get("diagnosis", ()):
            self._progress.note(f"diagnosis: {line}")
        return write_report(
            self._workdir,
            summary=summary,
            config=self._config,
            environment=environment(self._tuned),
            metrics=read_metrics(self._workdir),
            notices=self._notices,
            **about.get("pages", {}),
            **pages,
        )

    def close(self) -> None:
        """Writes what is still held back."""
        for log in self._logs:
            log.close()

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started
