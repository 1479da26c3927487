"""Logs the steps of a run as their metrics arrive."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parallel.feeding import batch_crc32
from reporting.nan_hunt import explain_not_finite
from reporting.progress import Progress
from reporting.run_log import RunLog
from reporting.step_meter import Ready, StepMeter, count_tokens
from training.checkpoints import Checkpoints
from training.divergence import check_skipped
from training.loss_spikes import SpikeWatch
from training.program import TrainProgram
from training.scalars import Scalars
from training.step import TrainState


class StepLog:
    """Logs each step once the next one is dispatched, and stops a run that diverges.

    A skipped step is one that changed nothing, because its loss, gradient or update was not finite.
    `last_step` is the last step whose metrics were read, or whose batch was skipped.

    spikes: watches the losses. From its errors on, this object is of no more use.
    """

    def __init__(
        self,
        program: TrainProgram,
        checkpoints: Checkpoints,
        log: RunLog,
        progress: Progress,
        spikes: SpikeWatch,
    ):
        self._program, self._config = program, program.config
        self._meter = StepMeter(
            program.config.data.global_batch_size,
            peak_examples_per_second=program.peak_examples_per_second,
        )
        self._checkpoints, self._log, self._progress = checkpoints, log, progress
        self._spikes = spikes
        self._skipped = 0  # consecutive skipped steps up to `last_step`
        self.last_step = 0
        self.waiting, self.restart_clock = self._meter.waiting, self._meter.restart_clock

    def push(self, step: int, metrics: Scalars, rows: Mapping[str, np.ndarray]) -> None:
        """Store the metrics of `step`, which may still be running, and log the previous step.

        rows: this process's rows of the batch.

        Raises `Diverged` after too many skipped steps or loss spikes, `LossSpike` after a spike.
        """
        known: dict[str, float] = count_tokens(rows)
        if self._config.train.log_batch_crc32:
            known["batch_crc32"] = batch_crc32(rows)
        self._read(self._meter.push(step, metrics, **known))

    def skip_batch(self, step: int) -> None:
        """Note that the batch of `step` is skipped, after logging the previous step. Raises the
        same errors as `push`."""
        self.drain()
        self.last_step = step
        self._log.event("skipped", step, "its batch is skipped: the loss spiked here")

    def hunt_nans(
        self, step: int, metrics: Scalars, state: TrainState, batch: Mapping[str, Any]
    ) -> None:
        """Find the operation that produced a non-finite number in `step`, and show it as a warning.

        Does nothing if the step was not skipped, or if the previous step was skipped too. Otherwise
        runs the step again, one operation at a time.

        state: the state after the step.
        batch: the step's batch.
        """
        if int(metrics["skipped"]) != 1:
            return
        with self._progress.working(f"looking for what was not finite in step {step}"):
            train_step = self._program.train_step
            text = explain_not_finite(train_step, state.before_skipped, batch)
        self._log.warn(f"step {step} again, one operation at a time: {text}")

    def drain(self) -> None:
        """Wait for the last pushed step, and log it. Raises the same errors as `push`."""
        self._read(self._meter.drain())

    def check_skipped(self, *, ends: bool = False) -> None:
        """Raise `Diverged` if too many consecutive steps up to `last_step` were skipped. ends:
        whether the run ends at this step, for which the limit is lower."""
        limit, saved = self._config.train.max_skipped_steps, self._checkpoints.saved_step
        check_skipped(self._skipped, self.last_step, limit, saved, ends=ends)

    def _read(self, ready: Ready) -> None:
        train = self._config.train
        for step, metrics in ready:
            self.last_step = step
            skipped = self._skipped = int(metrics.pop("skipped"))
            metrics.pop("weight")
            if skipped:
                self._log.event("skipped", step, f"{skipped} in a row")
                self._log.warn(
                    f"step {step} is passed over: its loss, gradient or update is not finite "
                    f"({skipped} in a row)"
                )
            if step % train.log_every_steps == 0 or step == train.steps or skipped:
                metrics |= self._meter.take_rates()
                self._log.write(step, metrics)
            self._progress.update(step, metrics)
            self.check_skipped()
            newest = self._checkpoints.newest_up_to
            self._spikes.watch(step, metrics["loss"], newest, self._log.warn)
