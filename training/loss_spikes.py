"""Loss spikes: how a run notices them, and which batches it skips after them.

At a spike, a run goes back to a checkpoint from before it. It then makes the same steps again up to
the window of batches that led to the spike, and skips these: their steps change nothing but the
count of steps. The windows stand in `loss_spikes.json` in the workdir, and in the manifests of
later checkpoints. The file is written before the run goes on, so that a run that is killed goes on
with the same batches.
"""

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.errors import UsageError
from configs.files import write_durably
from configs.schema.train import LossSpikes
from parallel.distributed import is_main_process
from parallel.exchange import agree
from training.divergence import Diverged

RECORD = "loss_spikes.json"

REMEMBERED, FEWEST = 100, 10
"""Number of losses that a loss is compared with, and the number from which on it is."""

_DEVIATIONS = 1.4826
"""The standard deviation of normally distributed numbers over their median deviation."""

_SMALLEST_SPREAD = 0.01
"""Smallest spread of losses, as a fraction of their median."""


@dataclass(frozen=True)
class SkippedWindow:
    """The batches of the steps `first` to `last` are skipped. Before, the run went back to
    `checkpoint`."""

    checkpoint: int
    first: int
    last: int

    def __str__(self) -> str:
        steps = f"steps {self.first} to {self.last}"
        return f"the batches of {steps if self.first < self.last else f'step {self.first}'}"


class LossSpike(Exception):
    """Raised when the loss has spiked and the run has to go back to the checkpoint
    `newest_usable`, from which it then skips the batches of `window`."""

    def __init__(self, text: str, window: SkippedWindow):
        super().__init__(text)
        self.window, self.newest_usable = window, window.checkpoint


class SpikeWatch:
    """Notices loss spikes by `settings`, and keeps the windows of batches that are skipped.

    A loss is high if it is not finite, or above the median of the last `REMEMBERED` losses that
    were not high by more than `settings.threshold` times their spread. `settings.steps` high losses
    in a row are a spike.

    All processes of a run see the same losses, and so decide alike. They read the record together.

    windows: the windows of the whole run, oldest first.
    """

    def __init__(self, settings: LossSpikes, workdir: Path):
        self._settings, self._path = settings, workdir / RECORD
        self.windows: list[SkippedWindow] = []
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self._high: list[int] = []  # the last steps in a row whose loss was high

    def go_on_from(self, manifest: Mapping[str, Any] | None) -> None:
        """Continue from the checkpoint of `manifest`; None: from step 0.

        Raises `UsageError` if the record in the workdir is damaged.
        """
        stored = {} if manifest is None else manifest["history"].get("loss_spikes", {})
        recorded = agree("loss-spikes", None, lambda _: self._read())
        more = [window for window in stored.get("windows", ()) if window not in recorded]
        self.windows = [SkippedWindow(**window) for window in (*recorded, *more)]
        self._losses = deque(stored.get("losses", ()), maxlen=REMEMBERED)
        self._high = list(stored.get("high", ()))

    @property
    def history(self) -> dict[str, Any]:
        """Return what checkpoints store of this; {} if spikes are ignored and were before."""
        if self._settings.skip_batches is None and not self.windows:
            return {}
        state = {
            "windows": [asdict(window) for window in self.windows],
            "losses": list(self._losses),
            "high": self._high,
        }
        return {"loss_spikes": state}

    def skips(self, step: int) -> bool:
        """Return whether the batch of `step` is skipped."""
        return any(window.first <= step <= window.last for window in self.windows)

    def watch(
        self,
        step: int,
        loss: float,
        newest_checkpoint: Callable[[int, int], int | None],
        warn: Callable[[str], None],
    ) -> None:
        """Take the loss of `step`, the next one that was computed.

        newest_checkpoint(wanted, latest): returns the newest finished checkpoint up to step
            `wanted`; if there is none, the newest up to `latest`; None if there is none either.
        warn: called with a message about a spike from which the run can't go back.

        Raises `LossSpike` at a spike, and `Diverged` if the run went back `max_rollbacks` times
        before.
        """
        settings = self._settings
        if settings.skip_batches is None or not self._completes_spike(step, loss):
            return
        began, count = self._high[0], len(self.windows)
        median = statistics.median(self._losses)
        text = f"the loss has spiked: {loss:.4g} at step {step}; its median before was {median:.4g}"
        if count >= settings.max_rollbacks:
            raise Diverged(
                f"{text}; the run went back {count} time{'s' * (count != 1)} before "
                "(train.loss_spikes.max_rollbacks). Try a lower optimizer.learning_rate, or a "
                "larger train.loss_spikes.skip_batches"
            )
        wanted = min(step - settings.skip_batches, began - 1)
        checkpoint = newest_checkpoint(wanted, began - 1)
        if checkpoint is None:
            self._losses.clear()
            self._high.clear()
            warn(f"{text}; there is no checkpoint from before it, so the run goes on")
            return
        first = max(checkpoint, step - settings.skip_batches) + 1
        window = SkippedWindow(checkpoint, first, step)
        raise LossSpike(f"{text}; going back to checkpoint {checkpoint}, without {window}", window)

    def record(self, window: SkippedWindow) -> None:
        """Add a window, and write all of them to the workdir, for `go_on_from`."""
        self.windows.append(window)
        if is_main_process():
            windows = [asdict(one) for one in self.windows]
            write_durably(self._path, json.dumps({"windows": windows}, indent=1) + "\n")

    def _completes_spike(self, step: int, loss: float) -> bool:
        if len(self._losses) < FEWEST:
            if math.isfinite(loss):
                self._losses.append(loss)
            return False
        median = statistics.median(self._losses)
        deviation = statistics.median(abs(one - median) for one in self._losses)
        spread = max(_DEVIATIONS * deviation, _SMALLEST_SPREAD * abs(median))
        if math.isfinite(loss) and loss <= median + self._settings.threshold * spread:
            self._losses.append(loss)
            self._high.clear()
            return False
        self._high.append(step)
        return len(self._high) >= self._settings.steps

    def _read(self) -> list[dict[str, int]]:
        if not self._path.exists():
            return []
        try:
            windows = json.loads(self._path.read_text(encoding="utf-8"))["windows"]
            return [asdict(SkippedWindow(**window)) for window in windows]
        except (ValueError, TypeError, KeyError):
            raise UsageError(
                f"{self._path} is damaged: it says which batches the run skips; take the list "
                "from `loss_spikes` in the manifest of the last checkpoint, or another --workdir"
            ) from None
