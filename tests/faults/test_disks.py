"""A disk that fails or forbids, a clock that was set back: what can't be saved is told, what was
saved stays, and the run goes on."""

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reporting.event_log import read_events
from tests.faults.cases import KILLED, STEPS
from tests.selection import few_of

DAY = 24 * 60 * 60


@pytest.mark.parametrize("call", few_of(["fsync", "write"], "fsync"))
def test_a_disk_that_fails_in_a_save(case, failing, call):
    errors = case.run("writing:9=kill", expect=KILLED, variables=failing(call, "checkpoints/6"))
    assert_is_told(errors, "Input/output error")
    assert case.saved == 3
    case.resumes_twice()


@pytest.mark.full
def test_an_error_in_the_background(case):
    errors = case.run("hashing:6=fail,writing:9=kill", expect=KILLED)
    assert_is_told(errors, "a file of the test: Input/output error")
    assert case.saved == 3
    case.resumes_twice()


def assert_is_told(errors: str, reason: str) -> None:
    assert "checkpoint 6 is not saved: " in errors
    assert f"{reason}; checkpoint 3 is kept; failure 1 of the 3 in a row" in errors


@pytest.mark.parametrize(("action", "saved"), [("leave", 6), ("leave_at_once", 3)])
@pytest.mark.full
def test_leaving_right_after_a_save(case, action, saved):
    """An end that Python knows of waits for the files."""
    case.run(f"begun:6={action}")
    assert case.saved == saved
    case.resumes_twice()


@pytest.mark.parametrize("file", ["metrics.jsonl", "events.jsonl"])
@pytest.mark.full
def test_a_log_that_can_not_be_written_ends_the_run_with_one_line(case, failing, tmp_path, file):
    switch = tmp_path / "switch"
    case.variables["FAULT_COMMAND"] = shlex.join(["touch", str(switch)])
    errors = case.run("step:5=shell", expect=1, variables=failing("write", file, switch=switch))
    last = errors.splitlines()[-1]
    assert last == f"train.py: error: {case.workdir / file}: Input/output error"
    assert "Traceback" not in errors
    case.resumes_twice()


def ends_after_a_bound(case, forbid: list[str], allow: list[str], reason: str) -> None:
    """Forbids writing once step 3 is saved, and allows it again after the run."""
    case.variables["FAULT_COMMAND"] = shlex.join(forbid)
    errors = case.run("saved:3=shell", expect=1)
    for step, number in ((6, 1), (9, 2), (12, 3)):
        assert f"checkpoint {step} is not saved: " in errors
        assert f"failure {number} of the 3 in a row that end a run" in errors
    assert f"{reason}. Once that is cured, the same command goes on from checkpoint 3" in errors
    assert "Traceback" not in errors
    assert case.saved == 3
    subprocess.run(allow, check=True)
    case.resumes_twice()


@pytest.mark.full
def test_checkpoints_that_may_not_be_written(case, obeying_modes):
    folder = str(case.workdir / "checkpoints")
    forbid, allow = ["chmod", "555", folder], ["chmod", "755", folder]
    ends_after_a_bound(case, forbid, allow, "Permission denied")


@pytest.fixture
def mounted(tmp_path) -> Iterator[Path]:
    """A file system of its own, which can be made read-only."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.full
def test_checkpoints_on_a_disk_that_becomes_read_only(case, mounted):
    forbid, allow = (["mount", "-o", f"remount,{how}", str(mounted)] for how in ("ro", "rw"))
    ends_after_a_bound(case, forbid, allow, "Read-only file system")


@pytest.mark.full
def test_a_workdir_on_a_read_only_disk_is_refused(case, mounted):
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    case.workdir = mounted / "run"
    last = case.run(expect=2).splitlines()[-1]
    assert f"--workdir={case.workdir} can't be written: Read-only file system" in last
    assert not any(mounted.iterdir())


@pytest.mark.full
def test_a_workdir_that_may_not_be_made_is_refused(case, obeying_modes, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    case.workdir = folder / "run"
    last = case.run(expect=2).splitlines()[-1]
    assert f"--workdir={case.workdir} can't be written: Permission denied" in last
    assert not any(folder.iterdir())


@pytest.mark.parametrize("file", ["manifest.json", "model/_METADATA"])
@pytest.mark.full
def test_a_file_that_may_not_be_read_is_named_and_the_older_step_used(stopped, obeying_modes, file):
    path = stopped.workdir / "checkpoints" / "8" / file
    path.chmod(0)
    errors = stopped.run("step:8=kill", expect=KILLED)
    assert f"checkpoint 8 is not used: {path} can't be read (Permission denied)" in errors
    stopped.resumes_twice()


@pytest.mark.full
def test_a_clock_that_is_set_back_changes_nothing(case, failing, tmp_path):
    """By a day, at step 5."""
    switch = tmp_path / "switch"
    case.variables = failing("clock", number=DAY, switch=switch)
    case.variables["FAULT_COMMAND"] = shlex.join(["touch", str(switch)])
    case.run("step:5=shell,step:8=kill", expect=KILLED)
    case.resumes_twice()
    events = read_events(case.workdir)
    times = [event["time"] for event in events]
    assert times[0] > times[-1]
    saved = [event["step"] for event in events if event["event"] == "saved"]
    assert saved == sorted(saved) and saved[-1] == STEPS
    assert (case.workdir / "report.html").exists()
