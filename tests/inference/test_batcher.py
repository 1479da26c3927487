"""Inputs that come at nearly the same time share a batch, and each gets its own answer."""

import threading

import pytest

from configs.errors import UsageError
from inference.engine.batcher import Batcher


class Answerer:
    """Answers numbers with their squares, and keeps the batches; a negative number is refused."""

    def __init__(self):
        self.batches: list[list[int]] = []

    def __call__(self, numbers):
        self.batches.append(list(numbers))
        for number in numbers:
            if number < 0:
                raise UsageError(f"{number} is negative")
            yield number**2


@pytest.fixture
def answerer():
    return Answerer()


def test_waiting_inputs_are_answered_in_full_batches(answerer):
    batcher = Batcher(answerer, most_rows=4, wait_seconds=0)
    tickets = [batcher.submit(number) for number in range(10)]
    assert batcher.step() and answerer.batches == [[0, 1, 2, 3]]
    batcher.run()
    assert answerer.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [ticket.output for ticket in tickets] == [number**2 for number in range(10)]
    assert not batcher.step() and len(answerer.batches) == 3


def test_the_first_input_waits_for_others(answerer):
    batcher = Batcher(answerer, most_rows=3, wait_seconds=60)
    batcher.submit(1)
    worker = threading.Thread(target=batcher.step)
    worker.start()
    batcher.submit(2)
    assert not answerer.batches
    batcher.submit(3)  # The batch is full, so that nothing waits for the minute.
    worker.join(timeout=30)
    assert answerer.batches == [[1, 2, 3]]


def test_an_input_that_cannot_be_answered_harms_no_other(answerer):
    told = []
    batcher = Batcher(answerer, most_rows=4, wait_seconds=0)
    tickets = [batcher.submit(number, told.append) for number in (2, -1, 3)]
    batcher.run()
    assert [ticket.output for ticket in tickets] == [4, None, 9]
    assert [str(ticket.error) for ticket in tickets] == ["None", "-1 is negative", "None"]
    assert told == tickets


def test_cancelled_inputs_leave_their_places_to_others(answerer):
    batcher = Batcher(answerer, most_rows=2, wait_seconds=0)
    tickets = [batcher.submit(number) for number in range(4)]
    batcher.cancel(tickets[0])
    batcher.cancel(tickets[2])
    batcher.run()
    assert answerer.batches == [[1, 3]]
    assert [ticket.output for ticket in tickets] == [None, 1, None, 9]


def test_other_exceptions_reach_the_caller_of_step():
    def fail(numbers):
        raise RuntimeError("a device is lost")

    batcher = Batcher(fail, most_rows=2)
    batcher.submit(1)
    with pytest.raises(RuntimeError, match="a device is lost"):
        batcher.step()
