"""The queue takes turns between clients."""

from serving.queueing import FairQueue


def taken(queue):
    return list(iter(queue.take, None))


def test_clients_take_turns_and_each_keeps_its_order():
    queue = FairQueue()
    for number in range(3):
        queue.add("greedy", f"greedy {number}")
    queue.add("modest", "modest 0")
    queue.add("other", "other 0")
    assert [*queue] and len(queue) == 5
    assert taken(queue) == ["greedy 0", "modest 0", "other 0", "greedy 1", "greedy 2"]
    assert len(queue) == 0 and queue.take() is None


def test_a_client_that_comes_later_waits_for_one_turn_of_each():
    queue = FairQueue()
    for number in range(100):
        queue.add("greedy", number)
    assert [queue.take(), queue.take()] == [0, 1]
    queue.add("late", "late")
    assert [queue.take(), queue.take()] == [2, "late"]


def test_removing_leaves_the_others_and_their_turns():
    queue = FairQueue()
    first, second = object(), object()
    queue.add("a", first)
    queue.add("a", second)
    queue.add("b", "b")
    assert queue.remove("a", first) and not queue.remove("a", first)
    assert not queue.remove("nobody", first)
    assert taken(queue) == [second, "b"]
    queue.add("a", first)
    assert queue.remove("a", first) and not queue and taken(queue) == []
