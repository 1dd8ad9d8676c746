"""Whose turn it is: priority, equal tokens for each key, arrival."""

import gc
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_server.engine.group import Stream, StreamGroup
from bosal_server.engine.queues import WaitingQueues


def group(key: str, tokens: int = 10, *, priority: int = 1, model: str = "m") -> StreamGroup:
    stream = Stream(model, [0])
    return StreamGroup(key, 0, [stream], tokens - 1, priority=priority, key_id=key)


def admit(queues: WaitingQueues) -> StreamGroup:
    first = next(queues.heads())
    queues.remove(first, was_admitted=True)
    return first


def test_one_key_is_served_in_order_of_arrival() -> None:
    queues = WaitingQueues(["m"])
    groups = [group("a", tokens) for tokens in (50, 1, 30)]
    for one in groups:
        queues.append(one)
    assert [admit(queues) for _ in groups] == groups


def test_a_flood_of_one_key_does_not_delay_another() -> None:
    queues = WaitingQueues(["m"])
    for _ in range(100):
        queues.append(group("flood"))
    for _ in range(3):
        admit(queues)
    queues.append(group("late"))
    assert "late" in [admit(queues).key_id for _ in range(2)]


def test_groups_that_gave_up_behind_one_that_waits_are_let_go() -> None:
    queues = WaitingQueues(["m"])
    stays = group("stays")
    queues.append(stays)
    order = [stays]
    for number in range(1000):
        one = group("goes", priority=number % 2)
        queues.append(one)
        if number % 100 == 1:
            order.append(one)
        else:
            queues.remove(one)
    del one
    gc.collect()
    alive = [one for one in gc.get_objects() if type(one) is StreamGroup]
    assert sum(one.key_id == "goes" for one in alive) < 200
    assert [admit(queues) for _ in order] == order
    assert not len(queues)


def test_a_higher_priority_goes_first() -> None:
    queues = WaitingQueues(["m"])
    for priority in (0, 1, 2, 1):
        queues.append(group("a", priority=priority))
    assert [admit(queues).priority for _ in range(4)] == [2, 1, 1, 0]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(2, 40)), min_size=40, max_size=80))
def test_keys_that_want_more_than_they_get_are_given_equal_tokens(
    wanted: list[tuple[str, int]],
) -> None:
    queues = WaitingQueues(["m"])
    left = Counter(key for key, _ in wanted)
    for key, tokens in wanted:
        queues.append(group(key, tokens))
    given_tokens: Counter[str] = Counter()
    while all(left[key] for key in "ab"):
        one = admit(queues)
        left[one.key_id] -= 1
        given_tokens[one.key_id] += one.cost
        # The bound of start-time fair queueing: the largest request of either.
        assert abs(given_tokens["a"] - given_tokens["b"]) <= 40 + 40


def test_one_that_leaves_unadmitted_is_passed_over() -> None:
    queues = WaitingQueues(["m"])
    first, second = group("a"), group("a")
    queues.append(first)
    queues.append(second)
    queues.remove(first)
    assert admit(queues) is second
    assert len(queues) == 0
    with pytest.raises(StopIteration):
        next(queues.heads())
