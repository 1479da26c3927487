"""The metrics of steps, read one step late, and the rates of a run."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from training.scalars import Scalars

_Pushed = tuple[int, Scalars, dict[str, float]]
Ready = list[tuple[int, dict[str, float]]]
"""Steps with their metrics, in their order."""

_SHORT = 50e-6
"""Seconds of waiting that do not count: to ask whether the devices waited too takes a fifth."""


def count_tokens(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return `tokens`, how many a model reads in a batch without padding, targets or not.

    rows: this process's part of the batch; the other processes are taken to have as many. Of pairs
    the tokens of both sides count. Without tokens, {}.
    """
    if "tokens" not in rows:
        return {}
    # Where nothing says which positions are filled, each token has a target.
    filled = rows["segments"] if "segments" in rows else rows["weights"]
    count = np.count_nonzero(filled) + np.count_nonzero(rows.get("source_segments", ()))
    return {"tokens": float(count * jax.process_count())}


class StepMeter:
    """Collects what each step returned, and how long the devices waited for its batch.

    `push` takes the metrics of a step that was only dispatched, and returns those of the step
    before, which is done or nearly so: the devices never wait for the host. `drain` waits for the
    last step.

    Rates are means since the last call of `take_rates`; all times are in seconds. There is a rate
    of tokens where `push` is given how many `tokens` steps read, and `mfu`, the share of
    `peak_examples_per_second`, where that is known.

    The host asks for a batch while the devices are still at the step before: waiting for one that
    comes before they are done costs nothing, and does not count.
    """

    def __init__(self, global_batch_size: int, *, peak_examples_per_second: float | None = None):
        self._global_batch_size = global_batch_size
        self._peak = peak_examples_per_second
        self._pending: _Pushed | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begins the means anew, when all is drained: after an evaluation or a compilation, which
        are no step's time."""
        self._rates: dict[str, float] | None = None
        self._begin()

    def waiting_for(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yields the same batches, and measures how long each takes to come."""
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            waited = time.perf_counter() - asked
            if waited > _SHORT and self._are_devices_idle():
                self._waited += waited
            yield batch

    def push(self, step: int, metrics: Scalars, **known: float) -> Ready:
        """Takes the metrics of `step`, and what the host knows of it beside them. Returns the step
        before with its metrics; nothing where that was drained."""
        ready = self._pending
        self._pending = step, metrics, known
        return self._read(ready)

    def drain(self) -> Ready:
        """Waits for the last step that was pushed, and returns it with its metrics."""
        ready, self._pending = self._pending, None
        return self._read(ready)

    def take_rates(self) -> dict[str, float]:
        """Return throughput and times since the last call; the same again if no step was read."""
        if self._rates is not None and not self._steps:
            return dict(self._rates)
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        rates = {
            "examples_per_second": self._steps * self._global_batch_size / elapsed,
            "step_seconds": elapsed / max(self._steps, 1),
            "input_wait_fraction": min(1.0, self._waited / elapsed),
        }
        if self._tokens is not None:
            rates["tokens_per_second"] = self._tokens / elapsed
        if self._peak is not None:
            rates["mfu"] = rates["examples_per_second"] / self._peak
        self._rates = rates
        self._begin()
        return dict(rates)

    def _begin(self) -> None:
        self._since = time.perf_counter()
        self._steps, self._waited = 0, 0.0
        self._tokens: float | None = None

    def _are_devices_idle(self) -> bool:
        """Return whether the last step that was pushed is done."""
        return self._pending is None or self._pending[1].is_ready()

    def _read(self, pushed: _Pushed | None) -> Ready:
        if pushed is None:
            return []
        step, metrics, known = pushed
        values = metrics.read() | known
        self._steps += 1
        if "tokens" in values:
            self._tokens = (self._tokens or 0.0) + values.pop("tokens")
        return [(step, values)]
