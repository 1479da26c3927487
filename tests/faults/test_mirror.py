"""A run with a mirror goes on from it on another machine, whatever happened to the first one.

Another machine is another workdir, and for a workdir in an object store another cache. What is told
of each kind of store is in docs/reliability.md.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.store import open_store
from tests.end_to_end.verbs import environment, metrics, run
from tests.faults.cases import KILLED, PATIENCE, RECIPE, STEPS, STOPPED, Case, outcome, wait_for
from tests.selection import few_of
from tests.storage.emulators import Emulator
from training.remote_steps import steps_in, unfinished_in, verify_remote


@pytest.fixture
def emulator(request) -> Iterator[Emulator]:
    """The kind of store in `request.param`, whose network may be cut."""
    found = request.getfixturevalue(request.param)
    yield found
    found.network.mend()


@pytest.fixture
def mirrored(case, place) -> Case:
    """A run with the mirror `place`."""
    case.fields["checkpoint.mirror"] = place
    return case


def places(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("place", kinds, indirect=True)


def in_mirror(case: Case) -> list[int]:
    return [*steps_in(open_store(case.fields["checkpoint.mirror"]))]


def move(case: Case, name: str) -> None:
    """Goes to another machine, which has nothing of the run."""
    case.workdir = case.workdir.with_name(name)
    assert not case.workdir.exists()


def goes_on_elsewhere(case: Case, step: int, *machines: str) -> None:
    """Goes on from `step` on a second and then on a third machine, and compares the end with that
    of the run that was never disturbed."""
    second, third = machines or ("second", "third")
    move(case, second)
    errors = case.run(f"step:{step + 2}=term", expect=STOPPED)
    assert f"going on from checkpoint {step}" in errors
    move(case, third)
    errors = case.run()
    assert f"going on from checkpoint {step + 2}" in errors
    assert outcome(case.workdir) == case.undisturbed()
    assert ("mirrored", STEPS) in case.events()
    store = open_store(case.fields["checkpoint.mirror"])
    for number in in_mirror(case):
        verify_remote(store.below(f"checkpoints/{number}"))
    assert STEPS in in_mirror(case) and len(in_mirror(case)) <= 3
    assert not unfinished_in(store.below("checkpoints"))
    case.say(f"went on from {step} and {step + 2} elsewhere; arrays and batches are equal")


@pytest.mark.parametrize("place", few_of(["gs", "s3", "folder"], "s3"), indirect=True)
def test_it_goes_on_on_another_machine(mirrored):
    mirrored.run("step:8=term", expect=STOPPED)
    assert in_mirror(mirrored)[-1] == 8
    goes_on_elsewhere(mirrored, 8)


POINTS = {
    "mirroring:6": "folder",
    "in_mirror:6": "s3",
    "mirrored:6": "gs",
    "unmirroring:3": "s3",
    "unmirrored:3": "gs",
}
"""Where the first machine is lost, and in which kind of store the mirror is. What the points are is
in `tests/faults/faulty.py`."""


@pytest.mark.full
@pytest.mark.parametrize(("point", "place"), POINTS.items(), indirect=["place"])
def test_the_first_machine_is_lost_while_it_copies(mirrored, point):
    mirrored.run("step:4=term", expect=STOPPED)  # Something is in the mirror, among it step 3.
    # Step 9 is the last one that is saved, so that step 6 is there until it is copied. Then step 3
    # is deleted, and in the mirror with the next copy, of step 12.
    last = 14 if point.startswith("unmirror") else 11
    mirrored.run(f"{point}=kill,step:{last}=hang", expect=KILLED, train__hang_seconds="none")
    goes_on_elsewhere(mirrored, in_mirror(mirrored)[-1])


@pytest.mark.full
def test_two_processes_of_one_run_have_one_mirror(case, tmp_path):
    case.fields["checkpoint.mirror"] = str(tmp_path / "place")
    case.run_on_two_hosts(["step:8=term", ""], expect=[STOPPED, STOPPED])
    assert in_mirror(case)[-1] == 8
    move(case, "second")
    errors = case.run_on_two_hosts()
    assert "going on from checkpoint 8" in errors[0]
    assert list(metrics(case.workdir)) == list(range(1, STEPS + 1))
    assert in_mirror(case)[-1] == STEPS


@pytest.mark.full
@pytest.mark.parametrize(
    ("damage", "place"), [("altered", "gs"), ("removed", "s3")], indirect=["place"]
)
def test_a_damaged_object_is_found_and_the_older_step_is_used(mirrored, damage, place):
    mirrored.run("step:8=term", expect=STOPPED)
    store = open_store(place).below("checkpoints/8")
    name = max(store.list(), key=lambda name: store.list()[name].size)
    if damage == "altered":
        content = bytearray(store.read(name))
        content[len(content) // 3] ^= 16
        store.write(name, bytes(content))
    else:
        store.delete([name])
    mirrored.say(f"{damage}: {name} of step 8 in the mirror")
    move(mirrored, "second")
    errors = mirrored.run("step:8=term", expect=STOPPED)
    assert f"checkpoint 8 is not used: {place}/checkpoints/8/{name} " in errors
    assert "going on from checkpoint 6" in errors
    verify_remote(store)  # It was saved again.
    goes_on_elsewhere(mirrored, 8, "third", "fourth")


@pytest.mark.full
@pytest.mark.parametrize("emulator", ["s3", "gs"], indirect=True)
def test_without_a_network_the_run_goes_on_and_the_mirror_is_made_later(case, emulator):
    case.fields["checkpoint.mirror"] = f"{emulator.bucket()}/run"
    emulator.network.cut(after=300_000)
    process = case.start()
    _, errors = process.communicate(timeout=PATIENCE)
    assert emulator.network.is_cut
    assert process.returncode == 1, errors
    assert "is not up to date: " in errors and "failure 1 in a row" in errors
    assert "lacks a part of the run: the same command copies it" in errors
    assert case.saved == STEPS and outcome(case.workdir) == case.undisturbed()
    emulator.network.mend()
    assert "is finished" in case.run()
    assert STEPS in in_mirror(case)
    case.say("the network was cut while the first step was copied; then the mirror was completed")


@pytest.mark.full
@places("s3", "folder")
def test_a_second_trainer_is_refused(mirrored, place, tmp_path):
    first = mirrored.start("logged:5=hang")
    wait_for(lambda: mirrored.saved >= 3, first)
    second = Case(tmp_path / "second", mirrored.fields, mirrored.say, mirrored.undisturbed)
    errors = second.run(expect=2)
    assert f"{place} is in use by process {first.pid} on " in errors
    assert not second.workdir.exists()
    first.kill()
    first.communicate()
    goes_on_elsewhere(mirrored, in_mirror(mirrored)[-1])


@pytest.mark.full
def test_one_whose_place_was_taken_ends(mirrored_folder):
    """It could not renew its lease, another machine took the run over, and now it is back."""
    case, place = mirrored_folder
    first = case.start("logged:8=hang_for_a_while")
    wait_for(lambda: 3 in in_mirror(case), first)
    os.kill(first.pid, signal.SIGSTOP)
    store = open_store(place)
    number = int(max(store.list("lease")).rpartition("/")[2])
    taken = {"token": "other", "pid": 1, "host": "elsewhere", "since": "now", "system": "another"}
    assert store.create(f"lease/{number + 1:012d}", json.dumps(taken).encode())
    os.kill(first.pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1
    assert f"{place} was taken over by process 1 on elsewhere since now" in errors
    assert in_mirror(case)[-1] < STEPS


@pytest.fixture
def mirrored_folder(case, tmp_path) -> tuple[Case, str]:
    place = str(tmp_path / "place")
    case.fields |= {"checkpoint.mirror": place, "train.steps": "100000"}
    return case, place


@pytest.mark.full
@places("gs")
def test_the_mirror_of_another_run_is_refused_and_nothing_is_written(mirrored, place):
    mirrored.run("step:4=term", expect=STOPPED)
    before = open_store(place).list("checkpoints")
    move(mirrored, "second")
    errors = mirrored.run(expect=2, model__width="32")
    assert f"{place} holds a run of another configuration: model.width was 16, is 32" in errors
    assert open_store(place).list("checkpoints") == before and not mirrored.workdir.exists()


def trained(workdir: str, *flags: str, cache: Path, expect: int, **fields: str) -> str:
    """Runs train.py on a machine with a cache of its own; returns standard error."""
    script = str(Path(__file__).parent / "faulty.py")
    overrides = [f"--config.{name.replace('__', '.')}={value}" for name, value in fields.items()]
    done = subprocess.run(
        [sys.executable, script, *flags, RECIPE, f"--workdir={workdir}", *overrides],
        env=environment() | {"TRIFORM_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == expect, f"status {done.returncode}\n{done.stderr}"
    return done.stderr


@pytest.mark.full
def test_a_workdir_in_google_cloud_storage(case, gs, tmp_path, monkeypatch):
    workdir, fields = f"{gs.bucket()}/runs/mine", case.fields
    first, second = tmp_path / "first", tmp_path / "second"
    trained(workdir, "step:8=term", cache=first, expect=STOPPED, **fields)
    errors = trained(workdir, "", cache=second, expect=0, **fields)
    assert "going on from checkpoint 8" in errors
    (folder,) = second.glob("workdirs/*/mine")
    assert outcome(folder) == case.undisturbed()

    monkeypatch.setenv("TRIFORM_CACHE", str(tmp_path / "third"))
    here = run("evaluate.py", f"--workdir={folder}").stdout.splitlines()[-1]
    there = run("evaluate.py", f"--workdir={workdir}").stdout.splitlines()[-1]
    assert json.loads(here) == json.loads(there) and json.loads(there)["step"] == STEPS
    found = run("evaluate.py", f"--workdir={workdir}", "--step=15").stdout.splitlines()[-1]
    assert json.loads(found)["step"] == 15
    prompt = ("--prompt=3 times", "--temperature=0", "--max_tokens=5")
    texts = [run("generate.py", f"--workdir={one}", *prompt).stdout for one in (workdir, folder)]
    assert texts[0] == texts[1]

    # The bucket was emptied to begin anew; the folder in the cache still has the run.
    gs.files().rm(workdir, recursive=True)
    errors = trained(workdir, "", cache=second, expect=2, **fields)
    assert f"{workdir} is empty, but {folder} has checkpoint {STEPS} of it" in errors
    case.say("a workdir on gs:// was stopped, went on elsewhere, and was evaluated on a third")
