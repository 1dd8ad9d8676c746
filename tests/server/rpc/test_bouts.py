"""The event loop sleeps between calls while many are turned away, and only then."""

import asyncio
from collections.abc import Iterator

import pytest

from bosal_server.rpc import bouts
from bosal_server.rpc.bouts import Bouts


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Let no time pass before the loop is found quiet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bouts, "_QUIET_SECONDS", 0.0)
        yield


async def _turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_it_sleeps_until_nobody_is_turned_away_any_more() -> None:
    slept: list[float] = []
    num_crowded = 4

    def is_crowded() -> bool:
        return len(slept) < num_crowded

    async def run() -> None:
        one = Bouts(is_crowded, slept.append)
        one.note_call()
        await _turns(20)
        assert not slept  # nobody was turned away
        one.note_refusal()
        one.note_refusal()
        await _turns(50)

    asyncio.run(run())
    assert slept == [0.01] * num_crowded


def test_a_refusal_among_few_lets_it_sleep_not_at_all_and_a_later_crowd_does() -> None:
    slept: list[float] = []
    crowded = [False]

    async def run() -> None:
        one = Bouts(lambda: crowded[0], slept.append)
        one.note_refusal()
        await _turns(20)
        assert not slept
        crowded[0] = True
        one.note_refusal()
        await _turns(20)

    asyncio.run(run())
    assert slept


def test_calls_that_come_one_upon_another_find_it_awake() -> None:
    slept: list[float] = []

    async def run() -> None:
        one = Bouts(lambda: True, slept.append)
        one.note_refusal()
        for _ in range(50):
            one.note_call()
            await asyncio.sleep(0)
        assert not slept
        await _turns(20)

    asyncio.run(run())
    assert slept
