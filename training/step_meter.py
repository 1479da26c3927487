"""The metrics of steps, read one step late so that the device never waits for the host."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class StepMeter:
    """Collects what each step returned and how long the devices waited for its batch.

    `push` hands over a step that was only dispatched and returns the metrics of the one before,
    which is done or nearly so; `drain` waits for the last one. Rates are means since the last
    time that `take_rates` was called; all times in seconds. `mfu` is the share of
    `peak_examples_per_second`, where that is known.

    The host asks for a batch while the devices are still at the step before: waiting for one that
    comes before they are done costs nothing, and does not count.
    """

    def __init__(
        self,
        global_batch_size: int,
        *,
        counts_tokens: bool,
        peak_examples_per_second: float | None = None,
    ):
        self._global_batch_size = global_batch_size
        self._counts_tokens = counts_tokens
        self._peak = peak_examples_per_second
        self._pending: tuple[int, dict[str, Any]] | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begins the means anew: after an evaluation or a compilation, which are no step's time."""
        self._since = time.perf_counter()
        self._steps, self._targets, self._waited = 0, 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures how long the next batch takes to come."""
        asked = time.perf_counter()
        yield
        if self._pending is None or self._pending[1]["loss"].is_ready():
            self._waited += time.perf_counter() - asked

    def push(self, step: int, metrics: dict[str, Any]) -> tuple[int, dict[str, float]] | None:
        """Takes the metrics of `step`; returns (step, metrics) of the one before, if there was."""
        ready, self._pending = self._pending, (step, metrics)
        return self._read(ready)

    def drain(self) -> tuple[int, dict[str, float]] | None:
        """Waits for the last step that was pushed, and returns it."""
        ready, self._pending = self._pending, None
        return self._read(ready)

    def take_rates(self) -> dict[str, float]:
        """Throughput and times since the last call."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        steps = max(self._steps, 1)
        rates = {
            "examples_per_second": self._steps * self._global_batch_size / elapsed,
            "step_seconds": elapsed / steps,
            "input_wait_fraction": min(1.0, self._waited / elapsed),
        }
        if self._counts_tokens:
            rates["tokens_per_second"] = self._targets / elapsed
        if self._peak is not None:
            rates["mfu"] = rates["examples_per_second"] / self._peak
        self.restart_clock()
        return rates

    def _read(self, ready: tuple[int, Any] | None) -> tuple[int, dict[str, float]] | None:
        if ready is None:
            return None
        step, metrics = ready
        # Not `jax.device_get`, which takes six times as long for a few numbers.
        values = {name: float(np.asarray(value).item()) for name, value in metrics.items()}
        self._steps += 1
        self._targets += values["weight"]
        return step, values
