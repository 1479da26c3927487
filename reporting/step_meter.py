"""Reads the metrics of steps one step late, and measures throughput and input waits."""

import contextlib
import time
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from training.scalars import Scalars

_Pushed = tuple[int, Scalars, dict[str, float]]
Ready = list[tuple[int, dict[str, float]]]
"""Steps with their metrics, in order."""

_SHORT = 50e-6
"""Shorter waits, in seconds, are ignored. The check whether the devices are idle takes a fifth of
this time."""


def count_tokens(rows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return {"tokens": number of tokens in a batch}, or {} for data without tokens.

    All tokens that the model reads count, targets or not, but padding does not. For pairs of texts,
    sources and targets both count.

    rows: this process's rows of the batch. The other processes are assumed to have as many tokens.
    """
    if "tokens" not in rows:
        return {}
    # Without `segments`, each token has a target, and `weights` marks the targets.
    filled = rows["segments"] if "segments" in rows else rows["weights"]
    count = np.count_nonzero(filled) + np.count_nonzero(rows.get("source_segments", ()))
    return {"tokens": float(count * jax.process_count())}


class StepMeter:
    """Collects the metrics of each step, and measures how long the devices wait for input.

    `push` takes the metrics of a step that was just dispatched, and returns those of the previous
    step. That step is done or nearly done, so that the devices never wait for the host. `drain`
    waits for the last step.

    Rates are means since the last call of `take_rates`. All times are in seconds.
    `tokens_per_second` needs `tokens` in each call of `push`. `mfu` is the rate of examples over
    `peak_examples_per_second`, and needs this argument.

    The host requests a batch while the devices still run the previous step. Its waiting time counts
    only if the devices are idle when the batch arrives.
    """

    def __init__(self, global_batch_size: int, *, peak_examples_per_second: float | None = None):
        self._global_batch_size = global_batch_size
        self._peak = peak_examples_per_second
        self._pending: _Pushed | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Start new means. Call this after an evaluation or a compilation, when all steps are
        drained, so that its time is not counted."""
        self._rates: dict[str, float] | None = None
        self._begin()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure how long the block takes, in which a batch is requested."""
        asked = time.perf_counter()
        yield
        waited = time.perf_counter() - asked
        if waited > _SHORT and self._are_devices_idle():
            self._waited += waited

    def push(self, step: int, metrics: Scalars, **known: float) -> Ready:
        """Store the metrics of `step` and further numbers that are known on the host. Return the
        previous step with its metrics, or [] if it was drained."""
        ready = self._pending
        self._pending = step, metrics, known
        return self._read(ready)

    def drain(self) -> Ready:
        """Wait for the last pushed step, and return it with its metrics."""
        ready, self._pending = self._pending, None
        return self._read(ready)

    def take_rates(self) -> dict[str, float]:
        """Return throughput and times since the last call. If no step was read since then, return
        the same values again."""
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
        """Return whether the last pushed step is done."""
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
