"""A run whose loss spikes goes back, skips the batches that led to the spike, and ends if it spikes
too often; killed on the way, it reads the same batches."""

import json
import re

import pytest

from tests.end_to_end.verbs import metrics
from tests.faults.cases import KILLED, STEPS, STOPPED
from training.loss_spikes import RECORD

FIELDS = {
    "optimizer.learning_rate": "1e-2",
    "train.loss_spikes.skip_batches": "4",
    "train.loss_spikes.steps": "2",
    "train.loss_spikes.threshold": "3",
}
BAD = "batch:13-14=rare"
"""The targets of two batches are tokens that are rare, of which the model expects none."""

SKIPPED = range(11, 15)


@pytest.fixture
def spiking(case):
    """A case in whose first run the loss spikes; it is compared with a run that goes back once."""
    case.fields |= FIELDS
    case.skipped = SKIPPED
    whole = case.sibling("whole")
    errors = whole.run(BAD)
    assert re.search(
        r"the loss has spiked: \S+ at step 14; its median before was \S+; going back to "
        "checkpoint 9, without the batches of steps 11 to 14",
        errors,
    )
    assert ("rolled_back", 9) in whole.events()
    assert [step for event, step in whole.events() if event == "skipped"] == [*SKIPPED]
    assert (whole.workdir / "checkpoints" / "12.unusable").is_dir()
    assert "the loss has spiked" in (whole.workdir / "report.html").read_text()
    case.compare_with(whole)
    return case


def test_a_run_that_is_killed_after_going_back_skips_the_same_batches(spiking):
    """The batches are good when it resumes: it knows what to skip, and need not see the spike."""
    spiking.run(f"{BAD},gone_back=kill", expect=KILLED)
    assert json.loads((spiking.workdir / RECORD).read_text()) == {
        "windows": [{"checkpoint": 9, "first": 11, "last": 14}]
    }
    assert spiking.saved == 9
    spiking.resumes_twice()


@pytest.mark.full
def test_a_mirror_has_the_steps_that_were_made_anew(spiking, tmp_path):
    place = tmp_path / "place"
    spiking.fields |= {"checkpoint.mirror": str(place), "checkpoint.keep_last": "5"}
    # Step 12 is in the mirror before the run goes back to step 9, and is made again.
    spiking.run("step:12=term", expect=STOPPED)
    spiking.run(f"{BAD},step:17=term", expect=STOPPED)
    assert ("rolled_back", 9) in spiking.events()
    for step in (12, 15, 17):
        name = f"checkpoints/{step}/manifest.json"
        assert (place / name).read_bytes() == (spiking.workdir / name).read_bytes()
    assert (place / RECORD).read_bytes() == (spiking.workdir / RECORD).read_bytes()
    spiking.workdir = spiking.workdir.with_name("second")
    spiking.run()
    assert spiking.outcome() == spiking.undisturbed()


@pytest.mark.full
@pytest.mark.parametrize("point", ["step:13", "step:14", "reading:15", "saving:15"])
def test_a_run_that_is_killed_in_a_spike_or_after_it_ends_in_the_same_way(spiking, point):
    """The batches stay bad: a run that was killed before it went back sees the spike again."""
    spiking.run(f"{BAD},{point}=kill", expect=KILLED)
    spiking.run(f"{BAD},step:17=term", expect=STOPPED)
    spiking.run(BAD)
    assert spiking.outcome() == spiking.undisturbed()


@pytest.mark.full
def test_a_run_that_spikes_too_often_has_diverged(case):
    case.fields |= FIELDS | {
        "train.loss_spikes.skip_batches": "2",
        "train.loss_spikes.max_rollbacks": "1",
    }
    errors = case.run(f"batch:13-{STEPS}=rare", expect=1)
    assert "the run went back 1 time before (train.loss_spikes.max_rollbacks)" in errors
    assert case.events()[-1][0] == "diverged"
    assert [event for event, _ in case.events()].count("rolled_back") == 1
    again = case.run(f"batch:13-{STEPS}=rare", expect=1)  # The bound holds over restarts.
    assert "the run went back 1 time before" in again


@pytest.mark.full
def test_without_a_checkpoint_from_before_the_spike_the_run_goes_on(case):
    case.fields |= FIELDS | {"checkpoint.every_steps": "1000"}
    errors = case.run(BAD)
    assert "there is no checkpoint from before it, so the run goes on" in errors
    assert list(metrics(case.workdir)) == list(range(1, STEPS + 1))


@pytest.mark.full
def test_two_processes_go_back_together(case):
    case.fields |= FIELDS
    for errors in case.run_on_two_hosts([BAD, BAD]):
        assert "going back to checkpoint 9, without the batches of steps 11 to 14" in errors
    assert list(metrics(case.workdir)) == [*range(1, 11), *range(15, STEPS + 1)]
    assert case.saved == STEPS
