"""Profiles a range of steps with JAX's profiler, and writes the trace to the workdir."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from configs.schema.config import Config


class Profiler:
    """Traces `train.profile_steps` steps, beginning with `train.profile_from_step`, if that is set.

    Call `begin(step)` before each step is dispatched, `end(step, metrics)` after it, and `close()`
    after the last step or a failure, to write a trace that is still open. After the last traced
    step, `end` waits for the device, so that the trace is complete.

    done: number of steps before this start of the run. If the first step to trace is among them,
    nothing is traced, and `notify` gets a message.
    """

    def __init__(
        self, config: Config, workdir: Path, notify: Callable[[str], None], *, done: int = 0
    ):
        begin = config.train.profile_from_step
        if begin is not None and begin <= done:
            notify(
                f"nothing is profiled this time: step {begin} (train.profile_from_step) was done "
                f"before, and this run goes on from step {done}"
            )
        self._first = begin or 0
        self._last = min(self._first + config.train.profile_steps - 1, config.train.steps)
        self._folder = workdir / "profile"
        self._notify = notify
        self._annotation: jax.profiler.StepTraceAnnotation | None = None
        self._tracing = False

    def begin(self, step: int) -> None:
        """Start the trace if `step` is the first to trace. Call this before the step is
        dispatched."""
        if step == self._first and not self._tracing:  # It is, after a roll-back.
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        if self._tracing:
            self._annotation = jax.profiler.StepTraceAnnotation("train", step_num=step)
            self._annotation.__enter__()

    def end(self, step: int, metrics: Mapping[str, Any]) -> None:
        """End the trace if `step` is the last to trace. Call this after the step is dispatched."""
        if self._annotation is None or not self._tracing:
            return
        self._annotation.__exit__(None, None, None)
        if step == self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """End a trace that is still open, and report its file through `notify`."""
        if not self._tracing:
            return
        jax.profiler.stop_trace()
        self._tracing = False
        traces = sorted(
            self._folder.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime
        )
        self._notify(
            f"profile from step {self._first} on: open {traces[-1]} in https://ui.perfetto.dev, or "
            f"pip install xprof and run: xprof --logdir={self._folder}"
        )
