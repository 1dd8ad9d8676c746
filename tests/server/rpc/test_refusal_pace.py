"""Refusals of whoever has many, held back while choices run."""

import asyncio

import pytest

from bosal_decoding.constraints.errors import CompileQueueFull
from bosal_decoding.errors import DecodingError
from bosal_server.errors import QueueFull, ServerError
from bosal_server.request_errors import MissingField
from bosal_server.rpc.refusal_pace import RefusalPace

WRONG = MissingField("instruction", "there is nothing to answer")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def paced(clock: Clock, *, is_wanted: bool = True) -> RefusalPace:
    return RefusalPace(lambda: is_wanted, lambda: None, clock)


def test_the_first_refusals_come_at_once_and_the_rest_at_a_pace() -> None:
    clock = Clock()
    pace = paced(clock)
    assert [pace.due("a") for _ in range(10)] == [0.0] * 10
    assert [round(pace.due("a"), 3) for _ in range(3)] == [0.05, 0.1, 0.15]
    assert pace.due("b") == 0  # another's are its own
    # Once the pace has caught up, the next come at once again.
    clock.now += 10
    assert pace.due("a") == 0


def test_no_refusal_is_late_by_more_than_a_second_and_a_flood_is_soon_forgotten() -> None:
    clock = Clock()
    pace = paced(clock)
    assert max(pace.due("a") for _ in range(5000)) == 1.0
    clock.now += 1.6
    assert pace.due("a") == 0


def test_what_came_before_the_first_choice_counts_once_it_runs() -> None:
    clock = Clock()
    is_wanted = False
    pace = RefusalPace(lambda: is_wanted, lambda: None, clock)
    assert not any(pace.due("a") for _ in range(100))
    is_wanted = True
    assert pace.due("a") == 1.0


@pytest.mark.parametrize(
    ("error", "is_held"),
    [
        (WRONG, True),
        (QueueFull(waiting="1", limit="1", retry_after=1.0), False),
        (CompileQueueFull(64), True),
    ],
)
def test_who_may_come_back_is_not_held(error: DecodingError | ServerError, is_held: bool) -> None:
    assert paced(Clock()).holds(error) == is_held


@pytest.mark.parametrize(("remaining", "is_held"), [(None, True), (3.0, True), (0.0, False)])
def test_who_has_no_time_left_is_not_held(remaining: float | None, is_held: bool) -> None:
    counted: list[None] = []
    pace = RefusalPace(lambda: True, lambda: counted.append(None), Clock())
    for _ in range(11):
        pace.due("a")

    asyncio.run(pace.hold("a", remaining))
    assert bool(counted) == is_held


def test_so_many_are_held_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bosal_server.rpc.refusal_pace._MAX_HELD", 2)
    counted: list[None] = []
    pace = RefusalPace(lambda: True, lambda: counted.append(None), Clock())

    async def many() -> None:
        await asyncio.gather(*(pace.hold("a", None) for _ in range(20)))

    asyncio.run(many())
    assert len(counted) == 2
