"""What happens to a run stands in events.jsonl, at once and over all its restarts."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from reporting.event_log import EVENTS, EventLog, read_events
from reporting.goodput import goodput
from reporting.progress import Progress
from reporting.run_log import RunLog
from tests.training import runs

START = datetime(2026, 1, 1, tzinfo=UTC)


def shown(workdir) -> list[tuple[str, int, str]]:
    return [(event["event"], event["step"], event["what"]) for event in read_events(workdir)]


def event_at(seconds: float, event: str, step: int) -> dict:
    time = (START + timedelta(seconds=seconds)).isoformat()
    return {"time": time, "event": event, "step": step, "what": ""}


def test_each_event_is_there_at_once_with_its_time(tmp_path):
    before = datetime.now(UTC) - timedelta(seconds=1)
    log = EventLog(tmp_path)
    log.write("started", 0, "process 7 on 'host'")
    (event,) = read_events(tmp_path)
    assert before < datetime.fromisoformat(event["time"]) <= datetime.now(UTC)
    log.write("saved", 10, "")
    log.close()
    assert shown(tmp_path) == [("started", 0, "process 7 on 'host'"), ("saved", 10, "")]


def test_a_restart_goes_on_behind_a_line_that_was_cut_off(tmp_path):
    assert read_events(tmp_path) == []
    for cut in ('{"time": "2026', '"text"', "[1]"):
        log = EventLog(tmp_path)
        log.write("started", 0, "")
        log.close()
        with (tmp_path / EVENTS).open("a") as file:
            file.write(cut)
    assert shown(tmp_path) == [("started", 0, "")] * 3
    log = EventLog(tmp_path)
    log.write("finished", 3, "")
    log.close()
    *_, last = (tmp_path / EVENTS).read_text().splitlines()
    assert json.loads(last)["event"] == "finished"


def test_a_run_keeps_early_events_until_its_log_is_open_and_shows_its_goodput(tmp_path):
    config = runs.load("digits_cnn")
    run_log = RunLog(config, tmp_path, Progress(), metadata={"parameters": 10}, tuned={})
    run_log.event("started", 0, "process 7")
    assert not (tmp_path / EVENTS).exists()
    run_log.open(0)
    run_log.event("saved", 1)
    assert shown(tmp_path) == [("started", 0, "process 7"), ("saved", 1, "")]
    run_log.write(1, {"loss": 1.0, "step_seconds": 1e9})
    page = run_log.report("finished", 1).read_text()
    run_log.close()
    run_log.event("stalled", 1)  # of a thread that is late: it does no harm
    assert "Goodput" in page and "100.0 %" in page


def test_only_steps_that_counted_count():
    steps = [{"step": step, "loss": 1.0, "step_seconds": 2.0} for step in (10, 20, 30)]
    metrics = [*steps[:2], {"step": 20, "validation/loss": 1.0}, steps[2]]
    events = [event_at(0, "started", 0), event_at(50, "started", 20)]
    now = START + timedelta(seconds=100)
    assert goodput(metrics, events, now) == pytest.approx(0.6)
    skipped = [event_at(9, "skipped", 4), event_at(60, "skipped", 25), event_at(61, "skipped", 25)]
    assert goodput(metrics, events + skipped, now) == pytest.approx(0.56)
    assert goodput(metrics, [], now) is None  # a run of older code
    assert goodput([], events, now) == 0
    assert goodput(metrics, events, START + timedelta(seconds=1)) == 1
    assert goodput(metrics, events, START) is None
