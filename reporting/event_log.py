"""Records what happens to a run in `events.jsonl`, across all its restarts.

The file has one JSON object per line. Its keys: `time` (ISO 8601, UTC), `event`, `step` (the number
of steps done) and `what`, a text. The events:

    started    a process began; `what` names it
    resumed    it goes on from the checkpoint of `step`
    fell_back  a newer checkpoint is not used
    saved      the checkpoint of `step` is complete
    mirrored   the mirror has the checkpoint of `step`, whole
    skipped    `step` changed nothing, because its loss, gradient or update was not finite, or
               because its batch is skipped after a loss spike
    rolled_back  the loss has spiked, and the run goes on from the checkpoint of `step`
    signal     a signal stopped the run
    stalled    nothing moved any more, or another process is gone
    corrupted  wrong values were found in `step`
    diverged   too many steps were skipped, or the loss has spiked too often
    finished   the last step is done
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.files import naming

EVENTS = "events.jsonl"


class EventLog:
    """Appends events to `events.jsonl`. Any thread may call `write`."""

    def __init__(self, workdir: Path):
        self._path = workdir / EVENTS
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o666)
        size = os.fstat(self._descriptor).st_size
        with naming(self._path):
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")  # Ends a line that was cut off.

    def write(self, event: str, step: int, what: str) -> None:
        """Append a line; it is there even if the process is killed next."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "event": event, "step": step, "what": what}
        with naming(self._path):
            os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_events(workdir: Path) -> list[dict[str, Any]]:
    """Return the events in order; lines that are not whole are left out. Return [] if there is no
    file."""
    path, events = workdir / EVENTS, []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.keys() >= {"time", "event", "step", "what"}:
            events.append(event)
    return events
