"""The metrics of a run for TensorBoard: a file of events in the folder it is shown."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SECONDS_HELD_BACK = 10.0
"""How long numbers may wait for others before they are written, when others come."""


class TensorBoard:
    """Writes the numbers of steps after `first_step` into a new file in `folder`; what older files
    have of later steps is hidden.

    Straight into the file, those of some seconds at once: the queue and the threads of
    tensorboardX's own `SummaryWriter` take the loop longer than the bytes do. All numbers of a step
    are one event, which takes longer than what it holds. A name without a group (`validation/loss`
    has one) gets `train/`.

    Made when there is something to write: to import tensorboardX takes as long as many steps.
    """

    def __init__(self, folder: Path, first_step: int):
        with _without_torch():
            from tensorboardX import event_file_writer
            from tensorboardX.proto import event_pb2, summary_pb2
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        self._file = event_file_writer.EventsWriter(str(folder / "events"))
        self._held_back: list[tuple[float, int, Mapping[str, float]]] = []
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(time.time(), first_step + 1, session_log=start)
        self._flushed_at = float("-inf")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the numbers of `step`, which may wait until there are those of others."""
        self._held_back.append((time.time(), step, metrics))
        if time.monotonic() - self._flushed_at >= SECONDS_HELD_BACK:
            self._write_held_back()
            self._file.flush()
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Writes what is still held back."""
        self._write_held_back()
        self._file.close()

    def _write_held_back(self) -> None:
        for at, step, metrics in self._held_back:
            values = [self._summary.Value(tag=_tag(n), simple_value=x) for n, x in metrics.items()]
            self._add(at, step, summary=self._summary(value=values))
        self._held_back.clear()

    def _add(self, at: float, step: int, **what) -> None:
        self._file.write_event(self._event(wall_time=at, step=step, **what))


def _tag(name: str) -> str:
    return name if "/" in name else f"train/{name}"


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Where PyTorch is installed tensorboardX would import it, for more than a second."""
    hidden = sys.modules.setdefault("torch", None) is None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]
