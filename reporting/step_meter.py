"""The metrics of steps, read late so that neither the device nor the host waits for the other."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from training.scalars import Scalars

_Pushed = tuple[int, Scalars, dict[str, float]]
Ready = list[tuple[int, dict[str, float]]]
"""Steps with their metrics, in their order."""

READ_TOGETHER = 16
"""Steps, at most, whose metrics are read at once: after a step each by itself takes as long as all
of them, for nothing of it is in the processor's caches any more."""

SECONDS_UNREAD = 0.05
"""How long the metrics of a step may wait for those of others, when another comes."""

_SHORT = 50e-6
"""Seconds of waiting that do not count: to ask whether the devices waited too takes a fifth."""


def count_tokens(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`tokens`: how many a model reads in a batch, of which `rows` are this process's, without
    padding, whether or not they are targets; of pairs those of both sides. Of several processes
    each counts its own, and takes the others' for as many. {} where there are none."""
    if "tokens" not in rows:
        return {}
    # Where nothing says which positions are filled, each token has a target.
    filled = rows["segments"] if "segments" in rows else rows["weights"]
    count = np.count_nonzero(filled) + np.count_nonzero(rows.get("source_segments", ()))
    return {"tokens": float(count * jax.process_count())}


class StepMeter:
    """Collects what each step returned and how long the devices waited for its batch.

    `push` hands over a step that was only dispatched and returns the metrics of those before,
    which are done or nearly so, quick ones a few at a time; `drain` waits for the last one. A step
    that is logged, one of each `log_every_steps`, is returned when the next one is pushed.

    Rates are means since the last time that `take_rates` was called; all times in seconds. Where
    it is known how many `tokens` steps read, there is a rate of these. `mfu` is the share of
    `peak_examples_per_second`, where that is known.

    The host asks for a batch while the devices are still at the step before: waiting for one that
    comes before they are done costs nothing, and does not count.
    """

    def __init__(
        self,
        global_batch_size: int,
        *,
        log_every_steps: int,
        peak_examples_per_second: float | None = None,
    ):
        self._global_batch_size = global_batch_size
        self._log_every_steps = log_every_steps
        self._peak = peak_examples_per_second
        self._pending: list[_Pushed] = []
        # Several processes have to read, and perhaps to end, at the same step.
        self._together = READ_TOGETHER if jax.process_count() == 1 else 1
        self._read_at = float("-inf")
        self.restart_clock()

    def restart_clock(self) -> None:
        """Begins the means anew, when all is drained: after an evaluation or a compilation, which
        are no step's time."""
        self._rates: dict[str, float] | None = None
        self._begin()

    def waiting_for(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches; measures how long each takes to come."""
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            waited = time.perf_counter() - asked
            if waited > _SHORT and (not self._pending or self._pending[-1][1].is_ready()):
                self._waited += waited
            yield batch

    def push(self, step: int, metrics: Scalars, **known: float) -> Ready:
        """Takes the metrics of `step`, and what the host knows of it beside them; returns step and
        metrics of those before that are due, in their order."""
        before, self._pending = self._pending, [*self._pending, (step, metrics, known)]
        if not before or not self._is_due(before):
            return []
        self._pending = self._pending[-1:]
        return self._read(before)

    def drain(self) -> Ready:
        """Waits for the last step that was pushed, and returns all that were not yet."""
        ready, self._pending = self._pending, []
        return self._read(ready)

    def take_rates(self) -> dict[str, float]:
        """Throughput and times since the last call; the same again if no step was read since."""
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

    def _is_due(self, before: list[_Pushed]) -> bool:
        """Whether the steps `before` the last one are to be read now."""
        logged = before[-1][0] % self._log_every_steps == 0
        full = len(before) >= self._together
        return logged or full or time.perf_counter() - self._read_at >= SECONDS_UNREAD

    def _read(self, ready: list[_Pushed]) -> Ready:
        found = [(step, metrics.read() | known) for step, metrics, known in ready]
        self._steps += len(found)
        tokens = [values.pop("tokens") for _, values in found if "tokens" in values]
        if tokens:
            self._tokens = (self._tokens or 0.0) + sum(tokens)
        self._read_at = time.perf_counter()
        return found
