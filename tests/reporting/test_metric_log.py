"""metrics.jsonl is valid at every moment, and holds each step once however a run was stopped."""

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from reporting.metric_log import MetricLog, read_metrics

ROOT = Path(__file__).parents[2]
WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from reporting.metric_log import MetricLog
log = MetricLog(Path(sys.argv[1]), first_step=0, notify=print)
for step in (10, 20, 30):
    log.write(step, {"loss": 1.0 / step})
log._file.write('{"step": 40, "lo')
log._file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def no_notice(text: str) -> None:
    raise AssertionError(text)


def lines_of(workdir: Path) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(workdir: Path) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} of all event files, as TensorBoard would show them."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: dict[str, dict[int, float]] = {}
    for path in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == SessionLog.START:
                for values in shown.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                shown.setdefault(value.tag, {})[event.step] = value.simple_value
    return shown


@pytest.fixture
def killed(tmp_path):
    """The workdir of a run that was killed after step 30, within the line of step 40."""
    process = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(tmp_path)], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    return tmp_path


def test_each_line_is_on_disk_when_write_returns(tmp_path):
    with closing(MetricLog(tmp_path, first_step=0, notify=no_notice)) as log:
        log.write(10, {"loss": 0.1 + 0.2, "learning_rate": 1e-3})
        assert lines_of(tmp_path) == [{"step": 10, "loss": 0.1 + 0.2, "learning_rate": 1e-3}]
        log.write(10, {"validation/loss": 2, "validation/examples": 7})
        assert lines_of(tmp_path)[1] == {
            "step": 10,
            "validation/loss": 2,
            "validation/examples": 7,
        }
    assert read_metrics(tmp_path) == lines_of(tmp_path)


def test_a_number_that_is_not_finite_is_null_and_read_as_nan(tmp_path):
    with closing(MetricLog(tmp_path, first_step=0, notify=no_notice)) as log:
        log.write(1, {"loss": math.nan, "gradient_norm": math.inf, "learning_rate": 0.5})
    assert lines_of(tmp_path) == [
        {"step": 1, "loss": None, "gradient_norm": None, "learning_rate": 0.5}
    ]
    line = read_metrics(tmp_path)[0]
    assert math.isnan(line["loss"]) and math.isnan(line["gradient_norm"])


def test_a_run_that_was_not_killed_goes_on_silently(tmp_path):
    for first in (0, 10, 20):
        with closing(MetricLog(tmp_path, first_step=first, notify=no_notice)) as log:
            log.write(first + 10, {"loss": 1.0})
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 20, 30]


def test_steps_after_the_checkpoint_are_cut_and_told(killed):
    told = []
    with closing(MetricLog(killed, first_step=10, notify=told.append)) as log:
        assert [line["step"] for line in lines_of(killed)] == [10]
        log.write(20, {"loss": 0.5})
    assert lines_of(killed) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.5}]
    assert len(told) == 1
    assert "step 10" in told[0] and "2 lines of steps 20 to 30" in told[0] and "line 4" in told[0]


def test_a_half_written_last_line_is_cut_and_told(killed):
    told = []
    MetricLog(killed, first_step=30, notify=told.append).close()
    assert [line["step"] for line in lines_of(killed)] == [10, 20, 30]
    assert len(told) == 1 and "line 4" in told[0]


def test_a_whole_line_without_its_end_is_half_written_too(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]


def test_a_fresh_start_keeps_nothing_of_a_run_killed_before_its_first_checkpoint(killed):
    told = []
    MetricLog(killed, first_step=0, notify=told.append).close()
    assert (killed / "metrics.jsonl").read_text() == ""
    assert len(told) == 1


def test_tensorboard_shows_what_the_lines_say(killed):
    with closing(MetricLog(killed, first_step=10, notify=str)) as log:
        log.write(15, {"loss": 0.25, "gradient_norm": math.nan, "validation/loss": 0.5})
    shown = scalars(killed)
    assert shown["train/loss"].keys() <= {10, 15} and shown["train/loss"][15] == 0.25
    assert shown["validation/loss"] == {15: 0.5}
    assert "train/gradient_norm" not in shown


def test_reading_tolerates_a_torn_last_line_only(killed):
    assert [line["step"] for line in read_metrics(killed)] == [10, 20, 30]
    path = killed / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 20', '{"st\x00p": 20'))
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_metrics(killed)
    told = []
    MetricLog(killed, first_step=30, notify=told.append).close()
    assert [line["step"] for line in read_metrics(killed)] == [10, 30]
    assert "line 2, 4" in told[0]


def test_reading_a_run_without_metrics_gives_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_the_cut_is_atomic(killed):
    before = (killed / "metrics.jsonl").stat().st_ino
    MetricLog(killed, first_step=10, notify=str).close()
    assert (killed / "metrics.jsonl").stat().st_ino != before
    assert sorted(os.listdir(killed)) == ["metrics.jsonl", "tensorboard"]
