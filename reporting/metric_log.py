"""Writes the metrics of a run to `metrics.jsonl` and TensorBoard, and reads them again.

`metrics.jsonl` has one JSON object per line. The keys for a logged training step:

    step, learning_rate, gradient_norm, examples_per_second, step_seconds, input_wait_fraction
    loss               nats per target, of this step alone
    update_ratio       norm of the parameters' change over the norm of the parameters
    tokens_per_second  for text: tokens that the model reads, targets or not, without padding;
                       for pairs, of both sides
    mfu                if the devices' peak is known
    accuracy           for a classifier

A validation adds a line with `step` and the task's metrics, with the prefix `validation/`. JSON has
no NaN and no infinity: a number that is not finite is written as null.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from configs.files import naming, write_durably

METRICS = "metrics.jsonl"

SECONDS_HELD_BACK = 10
"""Interval, in seconds, at which TensorBoard's file is written."""


class MetricLog:
    """Appends the metrics of a run to `metrics.jsonl` and to TensorBoard.

    first_step: the step that the run resumes from; 0 for a new run. If an earlier process was
    killed, the file may have lines of later steps, and an incomplete line. Opening the log removes
    these lines atomically, and reports it through `notify`. In TensorBoard the later steps are
    hidden. Only one process may write to a workdir: hold its lock.
    """

    def __init__(self, workdir: Path, *, first_step: int, notify: Callable[[str], None]):
        self._path = workdir / METRICS
        _cut(self._path, first_step, notify)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._folder, self._first_step = workdir / "tensorboard", first_step
        self._tensorboard: Any = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a line for `step` to `metrics.jsonl`, and write the same numbers to TensorBoard.

        The line is flushed at once. In TensorBoard, a name without a group gets the group `train/`
        (`validation/loss` has a group).
        """
        finite = {name: number for name, number in metrics.items() if math.isfinite(number)}
        line = {"step": step} | {name: finite.get(name) for name in metrics}
        with naming(self._path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
        if self._tensorboard is None:  # Imported late: it takes as long as many steps.
            self._tensorboard = _summary_writer(self._folder, self._first_step)
        for name, number in finite.items():
            tag = name if "/" in name else f"train/{name}"
            self._tensorboard.add_scalar(tag, number, step)

    def close(self) -> None:
        """Flush and close the files."""
        with naming(self._path):
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` in order, with null read as NaN. Return [] if there is no
    file.

    An incomplete last line, which a killed process may leave, is ignored. Raises ValueError with
    the line number for any other broken line.
    """
    path = workdir / METRICS
    lines, broken, count = _parse(path)
    for number in broken:
        if number != count:
            raise ValueError(f"{path}, line {number} is damaged")
    return [
        {key: math.nan if value is None else value for key, value in line.items()}
        for line in lines.values()
    ]


def _parse(path: Path) -> tuple[dict[int, dict[str, Any]], list[int], int]:
    """Return the intact lines by line number, the numbers of the broken lines, and the number of
    all lines."""
    if not path.exists():
        return {}, [], 0
    good, broken = {}, []
    texts = path.read_bytes().splitlines(keepends=True)
    for number, text in enumerate(texts, start=1):
        line = _parse_line(text)
        if line is None:
            broken.append(number)
        else:
            good[number] = line
    return good, broken, len(texts)


def _parse_line(text: bytes) -> dict[str, Any] | None:
    """Return the metrics of a line, or None if it is incomplete or not valid."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    whole = text.endswith(b"\n") and isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if whole else None


def _cut(path: Path, last_step: int, notify: Callable[[str], None]) -> None:
    """Remove broken lines and those of steps after `last_step`."""
    good, broken, _ = _parse(path)
    late = [line["step"] for line in good.values() if line["step"] > last_step]
    if not late and not broken:
        return
    cut = []
    if late:
        lines = "line" if len(late) == 1 else "lines"
        cut.append(f"{len(late)} {lines} of steps {min(late)} to {max(late)}")
    if broken:
        cut.append(f"line {', '.join(map(str, broken))}, not whole")
    notify(f"{path}: cut to step {last_step}, where this run goes on: without {'; '.join(cut)}")
    kept = [json.dumps(line) + "\n" for line in good.values() if line["step"] <= last_step]
    write_durably(path, "".join(kept))


def _summary_writer(folder: Path, first_step: int) -> Any:
    """Return a tensorboardX writer that hides the steps after `first_step` in older files."""
    # Where PyTorch is installed tensorboardX would import it, for more than a second.
    modules: dict[str, Any] = sys.modules
    is_hidden = modules.setdefault("torch", None) is None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if is_hidden:
            del modules["torch"]
    return SummaryWriter(
        str(folder), purge_step=first_step + 1, max_queue=1000, flush_secs=SECONDS_HELD_BACK
    )
