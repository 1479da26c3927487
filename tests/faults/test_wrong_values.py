"""What is not finite changes nothing and is counted; wrong values that are finite are named."""

import re

import numpy as np
import pytest

from benchmarks.gpu_training import arrays_of
from reporting.event_log import read_events
from tests.faults.cases import CORRUPTED, KILLED, STEPS, Case
from tests.selection import few_of

COMPARED = {"train.compare_replicas_every_steps": "1"}
RECOMPUTED = {"train.recompute_every_steps": "1"}


def skipped_steps(case: Case) -> list[int]:
    return [step for event, step in case.events() if event == "skipped"]


@pytest.mark.parametrize("point", few_of(["batch", "gradient"], "batch"))
def test_what_is_not_finite_changes_nothing_and_is_counted(case, point):
    case.fields |= {"checkpoint.every_steps": "1", "checkpoint.keep_last": "20"}
    faults = f"{point}:5=nan,{point}:8-9=nan"
    whole = case.sibling("whole")
    errors = whole.run(faults)
    assert skipped_steps(whole) == [5, 8, 9]
    assert (
        "step 9 is passed over: its loss, gradient or update is not finite (2 in a row)" in errors
    )
    for before, after in ((4, 5), (7, 9)):
        one, other = (arrays_of(whole.workdir, step) for step in (before, after))
        kept = [name for name in one if name not in ("step", "skipped")]
        assert len(kept) > 10
        for name in kept:
            np.testing.assert_array_equal(one[name], other[name])
    case.compare_with(whole)
    case.run(f"{faults},step:8=kill", expect=KILLED)
    case.resumes_twice(faults)


@pytest.mark.full
def test_a_checkpoint_that_is_not_finite_is_named_and_the_older_one_used(case):
    case.run("stored:6=nan,saved:6=kill", expect=KILLED)
    assert case.saved == 6
    errors = case.run("step:8=kill", expect=KILLED)
    assert re.search(r"checkpoint 6 is not used: params\.\S+ is not finite in it", errors)
    assert ("fell_back", 3) in case.events()
    assert (case.workdir / "checkpoints" / "6.unusable").is_dir()
    case.resumes_twice()


@pytest.mark.full
def test_if_no_checkpoint_is_finite_the_run_says_so_and_deletes_nothing(case):
    case.run("stored:3=nan,saved:3=kill", expect=KILLED)
    errors = case.run(expect=2)
    assert "is not finite in it, and there is no older one: give another --workdir" in errors
    assert [path.name for path in (case.workdir / "checkpoints").iterdir()] == ["3.unusable"]


MESHES = {
    "copies on four devices": {"mesh.data": "4"},
    "copies of shards": {"mesh.data": "2", "mesh.fsdp": "2"},
    "copies of columns": {"mesh.data": "2", "mesh.tensor": "2"},
}


@pytest.mark.parametrize("mesh", few_of(MESHES, "copies on four devices"))
@pytest.mark.parametrize("point", few_of(["parameters", "gradient"]))
def test_wrong_values_on_one_device_are_found_and_not_saved(case, point, mesh):
    if point == "gradient" and mesh != "copies on four devices":
        pytest.skip("the fault needs gradients that are not split")
    case.devices = 4
    case.fields |= COMPARED | MESHES[mesh]
    whole = case.sibling("whole")
    harmless = f"{point}:99=wrong"  # The same program, which may round otherwise than the usual.
    whole.run(harmless)
    case.compare_with(whole)
    errors = case.run(f"{point}:8=wrong", expect=CORRUPTED)
    line = next(line for line in errors.splitlines() if "copies of the same values differ" in line)
    assert "after step 8, " in line and "params." in line
    if mesh == "copies on four devices":
        assert "on device 1 of process 0, unlike its 3 other copies" in line
    else:
        assert "device 1 of process 0" in line
    assert case.saved == 6 and ("corrupted", 8) in case.events()
    assert "Traceback" not in errors
    case.say(line)
    case.resumes_twice(harmless)


@pytest.mark.full
def test_wrong_values_are_found_before_a_save_at_the_latest(case):
    case.devices = 4
    case.fields |= {"train.compare_replicas_every_steps": "1000", "mesh.data": "4"}
    errors = case.run("parameters:7=wrong", expect=CORRUPTED)
    assert "after step 9, copies of the same values differ" in errors
    assert case.saved == 6


@pytest.mark.full
def test_a_step_that_has_two_results_is_found_and_not_saved(case):
    case.fields |= RECOMPUTED
    errors = case.run("result:8=wrong", expect=CORRUPTED)
    line = next(line for line in errors.splitlines() if "computed twice, had two results" in line)
    assert re.search(r"step 8, .*params\.\S+ on device 0 of process 0", line)
    assert case.saved == 6 and ("corrupted", 8) in case.events()
    case.say(line)
    case.resumes_twice()


@pytest.mark.full
def test_two_processes_with_wrong_values_end_together_and_name_both(case):
    case.fields |= COMPARED
    errors = case.run_on_two_hosts(
        ["parameters:8=wrong", "parameters:8=wrong"], expect=[CORRUPTED, CORRUPTED]
    )
    for lines in errors:
        assert re.search(r"between device \d+ of process 0, device \d+ of process 1", lines)
    assert case.saved == 6
    assert [event for event, _ in case.events()].count("corrupted") == 1
    case.run_on_two_hosts()
    assert case.saved == STEPS


@pytest.mark.full
def test_checks_change_no_number(case):
    """A run with all checks equals the run without them, which `undisturbed` is."""
    case.fields |= RECOMPUTED | COMPARED
    errors = case.run("step:8=term", expect=75)
    assert "0 % of the parameters have copies on several devices of this mesh" in errors
    case.resumes_twice()
    assert not [event for event in read_events(case.workdir) if event["event"] == "corrupted"]
