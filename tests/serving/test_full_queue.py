"""A full queue refuses whoever fills it, not those who send little."""

import pytest

from serving.errors import ApiError
from serving.worker import Lane, Work, Worker


class Idle:
    """A stepper that nobody lets step."""

    def add(self, item) -> None: ...

    def cancel(self, item) -> None: ...

    def step(self) -> bool:
        return False


class Queue:
    """A worker whose thread does not run, so that everything waits."""

    def __init__(self, *, most_waiting: int, most_tokens: int = 1000):
        self.lanes = [Lane(Idle(), 1), Lane(Idle(), 1)]
        self.refused: list[str] = []
        self.worker = Worker(
            self.lanes, most_waiting=most_waiting, most_tokens=most_tokens, on_failure=print
        )

    def add(self, client: str, *names: str, tokens: int = 1, lane: int = 0) -> None:
        self.worker.add(
            [
                Work(self.lanes[lane], name, client, tokens, lambda work: None, self.end)
                for name in names
            ]
        )

    def end(self, work: Work) -> None:
        assert isinstance(work.error, ApiError) and work.error.status == 429
        assert int(work.error.headers["Retry-After"]) >= 1
        self.refused.append(work.item)

    def waiting(self, client: str) -> list[str]:
        return [work.item for lane in self.lanes for work in lane.waiting if work.client == client]


def test_the_newest_of_the_client_that_has_most_leave_for_one_that_has_few():
    queue = Queue(most_waiting=4)
    queue.add("greedy", "a", "b", "c")
    queue.add("greedy", "d", lane=1)
    queue.add("modest", "x")
    assert queue.refused == ["d"] and queue.waiting("modest") == ["x"]
    queue.add("modest", "y")
    assert queue.refused == ["d", "c"] and queue.waiting("greedy") == ["a", "b"]
    for client in ("modest", "greedy", "third"):  # Nobody has more than they would have then.
        names = ("z", "z") if client == "third" else ("z",)
        with pytest.raises(ApiError, match="4 requests wait already") as error:
            queue.add(client, *names)
        assert error.value.status == 429
    assert queue.refused == ["d", "c"] and queue.worker.waiting == 4


def test_tokens_are_bounded_and_shared_in_the_same_way():
    queue = Queue(most_waiting=100, most_tokens=10)
    queue.add("greedy", "a", "b", "c", tokens=3)
    queue.add("modest", "x", tokens=4)
    assert queue.refused == ["c"] and queue.worker.waiting_tokens == 10
    with pytest.raises(ApiError):
        queue.add("third", "y", tokens=4)  # Both would have to leave.
    assert queue.refused == ["c"] and queue.worker.waiting_tokens == 10


def test_who_has_most_tokens_leaves_when_tokens_are_short():
    queue = Queue(most_waiting=100, most_tokens=100)
    queue.add("greedy", "a", "b", "c", "d", tokens=20)
    queue.add("modest", *map(str, range(10)), tokens=2)
    queue.add("third", "x", tokens=20)
    assert queue.refused == ["d"] and len(queue.waiting("modest")) == 10
    queue.add("third", "pictures", "of", "no", "tokens", tokens=0)
    queue.add("fourth", "y", tokens=20)
    assert queue.refused == ["d", "c"] and queue.worker.waiting_tokens == 100


def test_who_fills_the_queue_is_refused_and_nothing_of_a_request_is_added():
    queue = Queue(most_waiting=4)
    queue.add("greedy", "a", "b", "c")
    with pytest.raises(ApiError):
        queue.add("greedy", "d", "e")
    assert queue.waiting("greedy") == ["a", "b", "c"] and queue.refused == []
