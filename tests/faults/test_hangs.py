"""A run in which nothing moves any more ends by itself, says where it stood, and can go on."""

import pytest

from tests.faults.cases import HANG_SECONDS, STALLED
from tests.selection import few_of

POINTS = {
    "reading:5": "reading batch 5",
    "step:5": "step 5",
    "compiling": "compiling the train step",
    "saving:6": "saving step 6",
    "hashing:6": "saving step 9",  # the next save waits for it
    "finishing": "writing the report",
}
"""Where a run hangs, and what it says of it."""

STILL = f"nothing has moved for {HANG_SECONDS} s (train.hang_seconds)"


@pytest.mark.parametrize("point", few_of(POINTS, "step:5"))
def test_the_stacks_are_printed_and_the_status_is_its_own(case, point):
    errors = case.run(f"{point}=hang", expect=STALLED, train__hang_seconds=str(HANG_SECONDS))
    assert f"{STILL}: {POINTS[point]}. The same" in errors
    assert "in hang\n" in errors
    assert case.events()[-1][0] == "stalled"
    if point != "finishing":
        case.resumes_twice()


@pytest.mark.full
def test_a_restore_that_hangs(case):
    case.run("step:4=term", expect=75)
    errors = case.run("restoring=hang", expect=STALLED, train__hang_seconds=str(HANG_SECONDS))
    assert f"{STILL}: restoring checkpoint 4. The same" in errors
    assert "in hang\n" in errors
    case.resumes_twice()


@pytest.mark.full
def test_a_step_that_holds_the_lock_of_the_interpreter(case):
    errors = case.run("step:5=hang_locked", expect=STALLED, train__hang_seconds=str(HANG_SECONDS))
    assert "in hang_locked\n" in errors
    case.resumes_twice()
