"""evaluate.py, alone and as two processes: it ends by itself, and names who is gone."""

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from tests.end_to_end.verbs import ROOT, environment
from tests.faults.cases import HANG_SECONDS, KILLED, PATIENCE, STALLED, Host, two_hosts
from tests.selection import few_of

FAULTY = """
import os, sys
import evaluate
from configs.reading.command_line import run_verb
from data.evaluation_batches import EvaluationBatches
from tests.faults.faulty import ACTIONS, always, before

place, _, action = sys.argv[1].partition("=")
if action and place == os.environ.get("JAX_PROCESS_ID", "0"):
    before(EvaluationBatches, "__iter__", ACTIONS[action], always)
sys.argv = ["evaluate.py", *sys.argv[2:]]
run_verb(evaluate.main)
"""


def start(case, fault: str, host: Host, seconds: int) -> subprocess.Popen:
    """Starts evaluate.py with `fault`, "1=kill": what happens to which process at its first
    batch."""
    flags = [f"--workdir={case.workdir}", f"--config.train.hang_seconds={seconds}"]
    return subprocess.Popen(
        [sys.executable, "-c", FAULTY, fault, *flags],
        cwd=ROOT,
        env=environment() | dict(host.variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(case, fault: str, hosts: Sequence[Host], seconds: int = HANG_SECONDS):
    """Returns the status and the errors of each process. One that was stopped is killed after the
    others have ended."""
    processes = [start(case, fault, host, seconds) for host in hosts]
    with ThreadPoolExecutor(len(processes)) as pool:
        reading = [pool.submit(one.communicate, timeout=PATIENCE) for one in processes]
        if fault.endswith("stop"):
            guilty = int(fault[0])
            wait([reading[1 - guilty]])
            processes[guilty].kill()
        errors = [one.result()[1] for one in reading]
    statuses = [one.returncode for one in processes]
    case.say(f"evaluate.py, process {fault}: statuses {statuses}")
    return statuses, errors


@pytest.mark.full
def test_an_evaluation_in_which_nothing_moves_ends_and_says_where(case):
    case.run()
    statuses, (errors,) = outcome(case, "0=hang", [Host({})])
    assert statuses == [STALLED]
    still = f"nothing has moved for {HANG_SECONDS} s (train.hang_seconds): evaluating the "
    assert f"evaluate.py: {still}" in errors
    assert "in hang\n" in errors


@pytest.mark.full
@pytest.mark.parametrize("action", few_of(["kill", "stop"], "kill"))
@pytest.mark.parametrize("number", few_of([0, 1], 1))
def test_a_process_of_an_evaluation_that_is_gone_is_named(case, number, action):
    case.run()
    statuses, errors = outcome(case, f"{number}={action}", two_hosts())
    assert statuses[number] == KILLED
    assert statuses[1 - number] == STALLED, errors[1 - number]
    assert f"process {number} of 2 does not answer" in errors[1 - number]


@pytest.mark.full
def test_a_process_of_an_evaluation_that_never_comes_is_named(case):
    case.run()
    statuses, errors = outcome(case, "", two_hosts()[:1], seconds=5)
    assert statuses == [STALLED]
    assert "evaluate.py: process 1 of 2 did not come to 127.0.0.1:" in errors[0]


@pytest.mark.full
def test_a_process_that_never_prepares_its_data_is_named_by_the_one_that_waits(case, tmp_path):
    case.run()  # so that the data is prepared, in one of two caches
    hosts = two_hosts()
    elsewhere = {"TRIFORM_CACHE": str(tmp_path / "empty")}
    more = {"train__steps": "30", "train__hang_seconds": "10"}
    waiting = case.start("", host=hosts[0], **more)
    hanging = case.start("preparing=hang", host=hosts[1], variables=elsewhere, **more)
    try:
        _, errors = waiting.communicate(timeout=PATIENCE)
    finally:
        hanging.kill()
        hanging.communicate()
    assert waiting.returncode == STALLED, errors
    assert "train.py: process 1 of 2 did not answer within 10 s (prepared)" in errors
    case.say(f"process 1 never prepares its data: status {waiting.returncode}")
    assert os.listdir(tmp_path / "empty" / "prepared") != []
