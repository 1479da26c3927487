"""Two processes are one run: they stop together, and none waits for ever for the other."""

import pytest

from tests.end_to_end.verbs import metrics
from tests.faults.cases import HANG_SECONDS, KILLED, STALLED, STEPS, STOPPED
from tests.selection import few_of

HANGING = {"train__hang_seconds": str(HANG_SECONDS)}


def on_process(number: int, fault: str) -> list[str]:
    return [fault if one == number else "" for one in range(2)]


def statuses(number: int, its: int, of_other: int) -> list[int]:
    return [its if one == number else of_other for one in range(2)]


def goes_on(case) -> None:
    """Resumes the run twice, to its end."""
    case.run_on_two_hosts(["step:11=term", ""], expect=[STOPPED, STOPPED])
    case.run_on_two_hosts()
    assert case.saved == STEPS
    assert list(metrics(case.workdir)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("number", few_of([0, 1], 1))
@pytest.mark.parametrize(
    "point", few_of(["meeting", "joined", "compiling", "step:5", "saving:6"], "step:5")
)
def test_a_signal_to_one_process_stops_both_at_the_same_step(case, number, point):
    case.run_on_two_hosts(on_process(number, f"{point}=term"), expect=[STOPPED, STOPPED])
    assert case.saved in ([5, 6, 7] if point in ("step:5", "saving:6") else [0])
    goes_on(case)


@pytest.mark.parametrize("number", few_of([0, 1], 1))
def test_a_process_that_never_comes_is_named(case, number):
    errors = case.run_on_two_hosts(
        on_process(number, "meeting=kill"),
        expect=statuses(number, KILLED, STALLED),
        train__hang_seconds="10",
    )
    assert f"process {number} of 2 did not come to 127.0.0.1:" in errors[1 - number]


@pytest.mark.parametrize("number", few_of([0, 1]))
def test_a_process_that_stands_still_is_named(case, number):
    errors = case.run_on_two_hosts(
        on_process(number, "step:5=stop"), expect=statuses(number, KILLED, STALLED), **HANGING
    )
    assert f"process {number} " in errors[1 - number] and "not answer" in errors[1 - number]
    goes_on(case)


@pytest.mark.parametrize("number", few_of([0, 1]))
@pytest.mark.parametrize("point", few_of(["compiling", "step:5"]))
def test_a_killed_process_is_named(case, number, point):
    faults = on_process(number, f"{point}=kill")
    errors = case.run_on_two_hosts(faults, expect=statuses(number, KILLED, STALLED), **HANGING)
    assert f"process {number} of 2 does not answer" in errors[1 - number]
    goes_on(case)
