"""The worker's thread takes what waits in fair order, within its bounds."""

import asyncio
import threading
import time

import pytest

from serving.errors import ApiError, try_again
from serving.worker import Lane, Work, Worker

SECONDS = 60


class Item:
    def __init__(self, name=""):
        self.name, self.has_begun, self.is_done = name, False, False


class Stepper:
    """Ends one item at each step, when `gate` is open. slots: number of items that it begins."""

    def __init__(self, slots):
        self.items, self.order, self.gate = [], [], threading.Event()
        self.slots = slots
        self.error = None

    def add(self, item):
        self.items.append(item)
        self.order.append(item.name)

    def cancel(self, item):
        item.is_done = True
        self.items = [one for one in self.items if one is not item]

    def step(self):
        if not self.items:
            return False
        for item in self.items[: self.slots]:
            item.has_begun = True
        if not self.gate.wait(0.01):
            return True
        if self.error is not None:
            raise self.error
        self.items.pop(0).is_done = True
        return bool(self.items)


class Setup:
    """A worker with one lane, and what it told of."""

    def __init__(self, *, capacity=1, kept=0, slots=1, most_waiting=10, most_tokens=100):
        self.stepper, self.failures, self.ended = Stepper(slots), [], []
        self.begun = []
        self.lane = Lane(self.stepper, capacity, kept)
        self.worker = Worker(
            [self.lane],
            most_waiting=most_waiting,
            most_tokens=most_tokens,
            on_failure=self.failures.append,
        )

    def work(self, name="", client="a", tokens=1):
        return Work(self.lane, Item(name), client, tokens, self.begun.append, self.ended.append)

    def run(self, steps):
        """Run a coroutine function beside the worker's thread."""

        async def main():
            self.worker.start(asyncio.get_running_loop())
            try:
                async with asyncio.timeout(SECONDS):
                    await steps()
            finally:
                self.stepper.gate.set()
                self.worker.stop()

        asyncio.run(main())


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


def test_clients_are_served_in_turns_whatever_each_sends():
    setup = Setup(capacity=1)
    greedy = [setup.work(f"greedy {number}", "greedy") for number in range(4)]
    modest = [setup.work("modest", "modest")]
    setup.worker.add(greedy)
    setup.worker.add(modest)
    setup.stepper.gate.set()

    async def steps():
        await until(lambda: len(setup.ended) == 5)

    setup.run(steps)
    assert setup.stepper.order == ["greedy 0", "modest", "greedy 1", "greedy 2", "greedy 3"]
    assert (setup.worker.waiting, setup.worker.running, setup.worker.waiting_tokens) == (0, 0, 0)


def test_all_of_a_request_is_added_or_nothing():
    setup = Setup(most_waiting=3, most_tokens=10)
    setup.worker.add([setup.work(tokens=4), setup.work(tokens=4)])
    for works in ([setup.work(), setup.work()], [setup.work(tokens=3)]):
        with pytest.raises(ApiError) as caught:
            setup.worker.add(works)
        assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) >= 1
    for works in ([setup.work() for _ in range(4)], [setup.work(tokens=11)]):
        with pytest.raises(ApiError) as caught:
            setup.worker.add(works)
        assert caught.value.status == 400  # It never fits.
    assert (setup.worker.waiting, setup.worker.waiting_tokens) == (2, 8)
    setup.worker.add([setup.work(tokens=2)])


def test_cancelled_work_leaves_the_queue_or_its_slot():
    setup = Setup(capacity=1)
    running, waiting, last = (setup.work(name, tokens=5) for name in ("running", "waiting", "last"))
    setup.worker.add([running, waiting, last])

    async def steps():
        await until(lambda: setup.worker.running == 1)
        setup.worker.cancel(waiting)
        assert (setup.worker.waiting, setup.worker.waiting_tokens) == (1, 5)
        setup.worker.cancel(running)
        await until(lambda: setup.stepper.order == ["running", "last"])
        setup.stepper.gate.set()
        await until(lambda: last in setup.ended)

    setup.run(steps)
    assert setup.stepper.order == ["running", "last"]


def test_what_waits_in_the_stepper_has_not_begun():
    setup = Setup(capacity=2, slots=1)
    first, next_, last = (setup.work(name) for name in ("first", "next", "last"))
    setup.worker.add([first, next_, last])

    async def steps():
        await until(lambda: setup.begun)
        assert setup.stepper.order == ["first", "next"]  # The stepper has both.
        assert setup.begun == [first]
        assert (setup.worker.waiting, setup.worker.running) == (2, 1)
        setup.stepper.gate.set()
        await until(lambda: len(setup.ended) == 3)

    setup.run(steps)
    assert setup.begun == setup.ended == [first, next_, last]


def test_giving_up_ends_what_runs_and_what_waits_with_the_error():
    setup = Setup(capacity=1)
    works = [setup.work(str(number)) for number in range(3)]
    setup.worker.add(works)

    async def steps():
        await until(lambda: setup.worker.running == 1)
        error = try_again("the server is stopping")
        setup.worker.give_up(error)
        assert {id(work) for work in setup.ended} == {id(work) for work in works}
        assert all(work.error is error for work in works)
        await until(lambda: setup.worker.running == 0)
        assert setup.worker.waiting == 0

    setup.run(steps)


class Panic(BaseException):
    """What a library raises that is written in Rust."""


@pytest.mark.parametrize("error", [RuntimeError("broken"), Panic()], ids=["exception", "panic"])
def test_a_fault_ends_all_work_and_nothing_is_taken_after_it(error):
    setup = Setup(capacity=1)
    setup.stepper.error = error
    works = [setup.work(), setup.work()]
    setup.worker.add(works)
    setup.stepper.gate.set()

    async def steps():
        await until(lambda: len(setup.ended) == 2)
        await until(lambda: setup.failures)
        with pytest.raises(ApiError) as caught:
            setup.worker.add([setup.work()])
        assert caught.value.status == 503

    setup.run(steps)
    assert all(work.error is setup.stepper.error for work in works)
    assert setup.failures == [setup.stepper.error] and setup.worker.waiting_tokens == 0


def test_a_full_queue_refuses_before_a_request_is_read_whom_it_would_refuse_after():
    setup = Setup(most_waiting=4)

    def add(client):
        setup.worker.add([setup.work(client=client)])

    def is_refused(client):
        """Return whether a request is refused, which must be so before it is read and after."""
        before = after = False
        try:
            setup.worker.check_queue(client)
        except ApiError as error:
            before = error.status == 429
        try:
            add(client)
        except ApiError as error:
            after = error.status == 429
        assert before == after
        return before

    assert [client for client in "aabbabccd" if is_refused(client)] == ["a", "b", "c"]
    assert setup.lane.waiting.sizes() == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_no_client_has_all_places_unless_it_is_alone():
    setup = Setup(capacity=3, kept=1)
    lane = setup.lane

    def add(*clients):
        for client in clients:
            lane.add(setup.work(client=client))

    def start():
        """Start what may start; return its clients."""
        before = len(lane.running)
        while (work := lane.take()) is not None:
            lane.running.append(work)
        return [work.client for work in lane.running[before:]]

    add(*"aaaaa")
    assert start() == ["a", "a", "a"]  # It is alone.
    add("b", "a", "a")
    lane.running.clear()
    assert start() == ["a", "b", "a"]
    lane.running.clear()
    assert start() == ["a", "a"]
    add("b")
    assert start() == ["b"]
    lane.running.clear()
    add(*"aaa")
    lane._shared_until = 0.0  # Long after another client came.
    assert start() == ["a", "a", "a"]


def test_retry_after_counts_the_work_and_not_the_wait():
    setup = Setup(capacity=1)
    works = [setup.work(str(number)) for number in range(2)]
    for work in works:
        work.added_at -= 1000.0
    setup.worker.add(works)
    setup.stepper.gate.set()

    async def steps():
        await until(lambda: len(setup.ended) == 2)

    setup.run(steps)
    assert setup.worker._seconds_per_item < 10


def test_stopping_does_not_wait_for_a_long_step():
    setup = Setup()
    release = threading.Event()
    setup.stepper.step = lambda: release.wait(SECONDS)

    async def steps():
        setup.worker.start(asyncio.get_running_loop())
        setup.worker.add([setup.work()])
        began = time.monotonic()
        setup.worker.stop()
        assert time.monotonic() - began < SECONDS / 2

    asyncio.run(steps())
    release.set()
