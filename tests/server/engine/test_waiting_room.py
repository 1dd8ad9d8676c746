"""Who may wait: bounds, whose request makes room, and what waiting is expected to take."""

from typing import Any, cast

import pytest

from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.waiting_room import WaitingRoom
from bosal_server.errors import DeadlineUnreachable, QueueFull, QueueTimeout


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class _Request:
    def __init__(self, key_id: str, priority: int, deadline: float | None) -> None:
        self.key_id, self.priority, self.deadline = key_id, priority, deadline


class _Active:
    def __init__(self, request: _Request, cost: int) -> None:
        self.request, self.cost = request, cost


def waiting(
    key: str = "", *, cost: int = 10, priority: int = 1, deadline: float | None = None
) -> ActiveRequest:
    """A request as the room sees it."""
    return cast(ActiveRequest, cast(Any, _Active(_Request(key, priority, deadline), cost)))


def test_a_room_holds_so_many_requests_and_no_more() -> None:
    room = WaitingRoom(2)
    first = waiting()
    assert room.enter(first) is None
    room.enter(waiting())
    with pytest.raises(QueueFull) as failure:
        room.enter(waiting())
    assert failure.value.retry_after == 1.0
    room.leave(first, was_admitted=False)
    room.leave(first, was_admitted=False)
    room.enter(waiting())
    assert (len(room), room.num_tokens) == (2, 20)


def test_a_room_holds_so_many_tokens_and_no_more() -> None:
    room = WaitingRoom(100, 25)
    room.enter(waiting(cost=20))
    with pytest.raises(QueueFull, match="25 tokens"):
        room.enter(waiting(cost=10))
    room.enter(waiting(cost=5))
    # What the engine can take may always wait for it alone.
    assert WaitingRoom(100, 25).enter(waiting(cost=1000)) is None


def test_whoever_fills_the_room_makes_room_for_others() -> None:
    room = WaitingRoom(4)
    greedy = [waiting("greedy") for _ in range(4)]
    for one in greedy:
        room.enter(one)
    modest = waiting("modest")
    assert room.enter(modest) is greedy[3]
    assert room.enter(waiting("modest")) is greedy[2]
    with pytest.raises(QueueFull):
        room.enter(waiting("greedy"))
    # With equal parts nobody has to leave.
    with pytest.raises(QueueFull):
        room.enter(waiting("modest"))


def test_a_request_that_cannot_start_before_its_deadline_is_refused_at_once() -> None:
    clock = Clock()
    room = WaitingRoom(100, clock=clock)
    ahead = [waiting(cost=100) for _ in range(11)]
    for one in ahead:
        # Nothing is known of the engine's speed yet.
        room.enter(one)
    room.leave(ahead.pop(), was_admitted=True)
    clock.now = 1.0
    room.leave(ahead[0], was_admitted=True)
    # 900 tokens wait and 100 a second are admitted.
    with pytest.raises(DeadlineUnreachable):
        room.enter(waiting(deadline=1.0 + 8.9))
    room.enter(waiting(deadline=1.0 + 9.1))
    # A higher priority passes them all.
    room.enter(waiting(priority=2, deadline=1.0 + 0.1))


def test_a_request_that_would_wait_too_long_is_refused_at_once() -> None:
    clock = Clock()
    room = WaitingRoom(100, None, 5.0, clock=clock)
    ahead = [waiting(cost=100) for _ in range(8)]
    for one in ahead:
        room.enter(one)
    room.leave(ahead.pop(), was_admitted=True)
    clock.now = 1.0
    room.leave(ahead[0], was_admitted=True)
    with pytest.raises(QueueFull, match="5 s"):
        room.enter(waiting())


def test_a_fifth_of_the_time_allowed_is_kept_for_what_an_estimate_misses() -> None:
    clock = Clock()
    room = WaitingRoom(100, None, 10.0, clock=clock)
    ahead = [waiting(cost=100) for _ in range(9)]
    for one in ahead:
        room.enter(one)
    room.leave(ahead.pop(), was_admitted=True)
    clock.now = 1.0
    room.leave(ahead[0], was_admitted=True)
    # 700 tokens wait and 100 a second are admitted; then 850.
    room.enter(waiting(cost=150))
    with pytest.raises(QueueFull, match="10 s"):
        room.enter(waiting())


def test_what_comes_between_admission_and_the_first_token_is_kept_free() -> None:
    clock = Clock()
    room = WaitingRoom(100, None, 10.0, clock=clock)
    assert room.timeout(9.9) is None
    assert isinstance(room.timeout(10.0), QueueTimeout)
    for seconds in (0.1, 2.0, 0.3):
        room.note_start(seconds)
    assert room.timeout(7.4) is None
    late = room.timeout(7.5)
    assert isinstance(late, QueueTimeout)
    assert "7.5 s" in str(late)
    assert late.metadata == {"max_queue_seconds": "10"}
    # Nor is anybody let in who would be refused then.
    ahead = [waiting(cost=100) for _ in range(9)]
    for one in ahead:
        room.enter(one)
    room.leave(ahead.pop(), was_admitted=True)
    clock.now = 1.0
    room.leave(ahead[0], was_admitted=True)
    with pytest.raises(QueueFull, match="7.0 s"):
        room.enter(waiting())


def test_one_long_prompt_leaves_half_the_time_to_wait_and_is_forgotten() -> None:
    room = WaitingRoom(100, None, 10.0)
    room.note_start(60.0)
    assert room.max_seconds == 5.0
    for _ in range(32):
        room.note_start(0.5)
    assert room.max_seconds == 9.375
    assert WaitingRoom(100).timeout(1e9) is None


def test_the_speed_of_admissions_in_bursts_is_that_of_whole_bursts() -> None:
    clock = Clock()
    room = WaitingRoom(100, clock=clock)
    for now in (0.0, 1.0, 2.0, 3.0):
        # All of one burst leave at once, and as many come a moment later.
        clock.now = now
        burst = [waiting(cost=10) for _ in range(10)]
        for one in burst:
            room.enter(one)
        clock.now = now + 0.99
        for one in burst:
            room.leave(one, was_admitted=True)
    # A hundred a second, not ten.
    for _ in range(10):
        room.enter(waiting(cost=10))
    room.enter(waiting(deadline=clock.now + 1.1))
    with pytest.raises(DeadlineUnreachable):
        room.enter(waiting(deadline=clock.now + 1.0))


def test_what_is_admitted_while_nobody_waits_says_nothing_of_speed() -> None:
    clock = Clock()
    room = WaitingRoom(100, clock=clock)
    for now in range(10):
        clock.now = float(now)
        one = waiting(cost=10)
        room.enter(one)
        room.leave(one, was_admitted=True)
    for _ in range(50):
        room.enter(waiting(cost=10))
    room.enter(waiting(deadline=clock.now + 0.1))


def test_what_could_not_wait_is_refused_before_anything_is_known_of_it() -> None:
    clock = Clock()
    room = WaitingRoom(3, 1000, 10.0, clock=clock)
    alone: Any = {"priority": 1, "deadline": None}
    room.check(key_id="greedy", **alone)
    ahead = [waiting("greedy", cost=300) for _ in range(3)]
    for one in ahead:
        room.enter(one)
    with pytest.raises(QueueFull):
        room.check(key_id="greedy", **alone)
    # Another key's would displace one of theirs: it may come, and nobody has left for it yet.
    room.check(key_id="modest", **alone)
    assert len(room) == 3
    room.leave(ahead.pop(), was_admitted=True)
    room.enter(waiting("greedy", cost=300))
    clock.now = 1.0
    room.leave(ahead[0], was_admitted=True)
    # There is a place; 600 tokens are ahead, admitted at 300 a second.
    room.check(key_id="greedy", **alone)
    with pytest.raises(DeadlineUnreachable):
        room.check(key_id="greedy", priority=1, deadline=2.9)
    room.check(key_id="greedy", priority=1, deadline=3.1)
    room.check(key_id="greedy", priority=2, deadline=1.1)


def test_there_is_a_crowd_while_many_are_turned_away_within_a_second() -> None:
    clock = Clock()
    room = WaitingRoom(1, clock=clock)
    room.enter(waiting())

    def turn_away(number: int) -> None:
        for _ in range(number):
            with pytest.raises(QueueFull):
                room.check(key_id="", priority=1, deadline=None)

    turn_away(19)
    assert not room.is_crowded
    clock.now = 0.9
    turn_away(1)
    assert room.is_crowded
    clock.now = 1.0
    assert not room.is_crowded
    turn_away(19)
    assert room.is_crowded
    clock.now = 2.0
    assert not room.is_crowded
