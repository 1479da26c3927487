"""A run that is asked to stop, at any moment, saves what there is to save and exits with 75."""

import signal

import pytest

from tests.faults.cases import STEPS, STOPPED
from tests.selection import few_of

EARLY = ["preparing", "compiling", "reading:1"]
LATE = ["reading:5", "step:5", "saving:6", "writing:6", "hashing:6", "deleting:3", "logged:7"]
RESTARTED = ["restoring", "compiling", "step:8"]


@pytest.mark.parametrize("point", few_of(EARLY))
def test_before_the_first_step_there_is_nothing_to_save(case, point, tmp_path):
    if point == "preparing":
        case.fields["data.cache_dir"] = str(tmp_path / "cache")
    errors = case.run(f"{point}=term", expect=STOPPED)
    assert "SIGTERM: stopping before the first step; once more to stop at once" in errors
    assert "stopped by SIGTERM before the first step; the same command goes on" in errors
    assert case.saved == 0
    case.resumes_twice()


@pytest.mark.parametrize("point", few_of(LATE, "writing:6"))
def test_between_steps_and_in_a_save_the_step_is_saved(case, point):
    errors = case.run(f"{point}=term", expect=STOPPED)
    assert f"stopped by SIGTERM after saving step {case.saved}" in errors
    assert 5 <= case.saved <= 13
    assert case.events()[-2:] == [("saved", case.saved), ("signal", case.saved)]
    case.resumes_twice()


@pytest.mark.parametrize("point", few_of(RESTARTED))
def test_when_it_goes_on_nothing_is_lost(case, point):
    case.run("step:4=term", expect=STOPPED)
    case.run(f"{point}=term", expect=STOPPED)
    case.resumes_twice()


@pytest.mark.parametrize("point", few_of(["compiling", "step:5", "saving:6"], "step:5"))
def test_a_second_interrupt_leaves_at_once(case, point):
    errors = case.run(f"{point}=int_twice", expect=128 + signal.SIGINT)
    assert "SIGINT again: stopped at once" in errors
    case.resumes_twice()


@pytest.mark.full
def test_in_the_report_the_run_is_done(case):
    case.run("finishing=term")
    assert case.saved == STEPS
    assert case.events()[-1] == ("finished", STEPS)
