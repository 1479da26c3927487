"""A run that goes on elsewhere reads the same batches, and has the same losses to within 1e-6."""

import numpy as np
import pytest

from configs.reading.saved import read_config
from data.batches import Batches
from data.preparation import prepare
from parallel.feeding import batch_crc32
from tests.faults.cases import STEPS, STOPPED, Case, outcome
from tests.selection import few_of

MESHES = {
    8: {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"},
    4: {"mesh__data": "1", "mesh__fsdp": "4"},
    2: {"mesh__data": "2"},
    1: {},
}
"""The fields of a mesh, by the number of its devices."""


@pytest.mark.parametrize("devices", few_of([(2, 1), (8, 4, 2, 1, 8)], (2, 1)), ids=str)
def test_on_other_numbers_of_devices(case, devices):
    *before, last = devices
    for number, count in enumerate(before, start=1):
        step = STEPS * number // len(devices)
        case.run(f"step:{step}=term", expect=STOPPED, devices=count, **MESHES[count])
        assert case.saved == step
    case.run(devices=last, **MESHES[last])
    assert outcome(case.workdir).batches == case.undisturbed().batches, "it read other batches"
    assert_losses_are_close(case)


@pytest.mark.full
def test_on_two_hosts_and_one_and_two(case):
    stops = []
    for step, hosts in ((6, 2), (12, 1)):
        fault = f"step:{step}=term"
        if hosts == 2:
            case.run_on_two_hosts([fault, ""], expect=[STOPPED, STOPPED])
        else:
            case.run(fault, expect=STOPPED)
        stops.append(case.saved)
    case.run_on_two_hosts()
    assert_losses_are_close(case)

    config = read_config(case.workdir)
    split = prepare(config.data).splits["train"]
    batches = Batches(split, global_batch_size=4, seed=0, shuffle=True, rows=slice(0, 2))
    expected = list(case.undisturbed().batches)
    for step in (*range(stops[0]), *range(stops[1], STEPS)):  # The first host has these rows.
        expected[step] = batch_crc32(batches[step])
    assert outcome(case.workdir).batches == expected


@pytest.mark.full
def test_with_processes_that_read(case):
    case.run("step:6=term", expect=STOPPED)
    case.run("step:12=term", expect=STOPPED, data__workers="4")
    case.run(data__workers="1")
    assert outcome(case.workdir) == case.undisturbed()
    case.say("arrays, batches and losses are equal with 0, 4 and 1 processes that read")


def assert_losses_are_close(case: Case) -> None:
    found, expected = (np.array(one.losses) for one in (outcome(case.workdir), case.undisturbed()))
    case.say(f"the largest relative difference of a loss: {abs(found / expected - 1).max():.1e}")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
