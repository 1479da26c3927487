"""A run that is killed at any moment ends as the run that never was."""

import random
import time

import pytest

from tests.faults.cases import EVERY, KILLED, PATIENCE, STEPS, wait_for
from tests.selection import few_of

POINTS = [
    "preparing", "prepared", "compiling", "reading:1", "reading:5", "step:1", "step:8", "logged:6",
    "saving:6", "writing:6", "hashing:6", "saved:6", "deleting:3", "hashing:3", "writing:9",
]  # fmt: skip
"""Where a run that began is killed; `tests/faults/faulty.py` says what each point is."""


@pytest.mark.parametrize("point", few_of(POINTS, "hashing:6"))
def test_killed_at_a_point(case, point, tmp_path):
    if point.startswith("prepar"):
        case.fields["data.cache_dir"] = str(tmp_path / "cache")
    case.run(f"{point}=kill", expect=KILLED)
    case.resumes_twice()


@pytest.mark.parametrize("point", few_of(["restoring", "compiling", "step:8", "writing:9"]))
def test_killed_again_when_it_goes_on(case, point):
    case.run("saved:6=kill", expect=KILLED)
    errors = case.run(f"{point}=kill", expect=KILLED)
    assert "was left locked by process" in errors
    case.resumes_twice()


@pytest.mark.parametrize("seed", few_of(range(8)))
def test_killed_at_a_random_moment(case, seed):
    """After the first save, so that it is not the compilation that is met each time."""
    moments = random.Random(seed)
    process = case.start()
    wait_for(lambda: case.saved >= EVERY, process)
    time.sleep(moments.uniform(0, 0.5))
    process.kill()
    process.communicate(timeout=PATIENCE)
    case.say(f"killed with {case.saved} of {STEPS} steps saved")
    if case.saved < STEPS - 1:
        case.resumes_twice()
