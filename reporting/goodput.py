"""Computes the goodput of a run: the share of its time that went into steps that counted."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def goodput(
    metrics: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], now: datetime
) -> float | None:
    """Return the time of the steps that counted over the time since the run first started, from 0
    to 1; None if it is unknown.

    A step does not count if it was skipped, or lost because the run was killed before it was saved.
    All other time does not count either: starts, compilations, evaluations, and the time in which
    the run stood still.

    metrics: the lines of metrics.jsonl, which has no lines of lost steps.
    events: the lines of events.jsonl.
    """
    started = [event["time"] for event in events if event["event"] == "started"]
    if not started:
        return None
    passed = (now - datetime.fromisoformat(started[0])).total_seconds()
    skipped = {event["step"] for event in events if event["event"] == "skipped"}
    seconds, last = 0.0, 0
    for line in metrics:
        if "step_seconds" in line:
            steps = range(last + 1, line["step"] + 1)
            seconds += line["step_seconds"] * len({*steps} - skipped)
            last = line["step"]
    return min(1.0, seconds / passed) if passed > 0 else None
