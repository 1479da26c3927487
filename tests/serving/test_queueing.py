"""The queue takes turns between clients."""

from serving.queueing import MOST_DEBT, FairQueue, Room


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


def test_a_turn_is_skipped_where_it_may_not_come():
    queue = FairQueue()
    queue.add("a", 1)
    queue.add("b", 2)
    assert queue.take(lambda client: client == "b") == 2
    assert queue.take(lambda client: client == "b") is None and taken(queue) == [1]


def test_there_is_room_for_others_however_much_some_take():
    room = Room(16)
    assert room.take("a", 8) and not room.take("a", 1)
    assert room.take("b", 4) and not room.take("b", 1)
    assert room.take("c", 2) and room.take("d", 1) and room.total == 15
    for client, amount in (("a", 8), ("b", 4), ("c", 2), ("d", 1)):
        room.give_back(client, amount)
    assert room.total == 0 and room.take("d", 8)


def test_a_client_leaves_turns_that_are_charged_to_it_to_others():
    queue = FairQueue()
    for client in ("greedy", "modest"):
        for number in range(4):
            queue.add(client, f"{client} {number}")
    for _ in range(4):
        queue.charge("greedy", 0.5)
    queue.charge("nobody", 5.0)
    assert [queue.take() for _ in range(5)] == [
        "modest 0",
        "modest 1",
        "greedy 0",
        "modest 2",
        "greedy 1",
    ]


def test_debt_has_a_bound_and_costs_nothing_without_others():
    queue = FairQueue()
    for number in range(20):
        queue.add("greedy", number)
    queue.charge("greedy", 1e6)
    assert [queue.take(), queue.take()] == [0, 1]
    queue.charge("greedy", 1e6)
    for _ in range(int(MOST_DEBT)):
        queue.add("modest", "modest")
        assert queue.take() == "modest"
    queue.add("modest", "modest")
    assert queue.take() == 2
