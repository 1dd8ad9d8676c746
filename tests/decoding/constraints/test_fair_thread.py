"""Work of many owners in one thread: turns, a bounded share, and an end."""

from concurrent.futures import CancelledError
from threading import Event
from time import thread_time

import pytest

from bosal_decoding.constraints.fair_thread import Allowance, FairThread


def burn(seconds: float) -> None:
    """Use processor time."""
    end = thread_time() + seconds
    while thread_time() < end:
        pass


def test_owners_take_turns_whatever_one_has_queued() -> None:
    thread = FairThread("test")
    gate = Event()
    done: list[str] = []
    try:
        thread.submit(gate.wait)
        futures = [
            thread.submit(lambda name=name: done.append(name), name[0])  # type: ignore[misc]
            for name in ("a1", "a2", "a3", "b1", "c1", "b2")
        ]
        gate.set()
        for future in futures:
            future.result(timeout=10)
        assert done == ["a1", "b1", "c1", "a2", "b2", "a3"]
    finally:
        gate.set()
        thread.close()


def test_what_fails_does_not_end_the_thread() -> None:
    thread = FairThread("test")
    try:
        with pytest.raises(ZeroDivisionError):
            thread.submit(lambda: 1 / 0).result(timeout=10)
        assert thread.submit(lambda: 7).result(timeout=10) == 7
    finally:
        thread.close()


def test_a_burst_is_free_and_then_the_share_counts() -> None:
    now = [100.0]
    allowance = Allowance(0.25, clock=lambda: now[0])
    now[0] = 100.008
    assert allowance.charge(0.008) == 0
    # 2 ms were left and 2 ms gained: 4 ms too much, which a quarter makes up for in 16 ms.
    now[0] = 100.016
    assert allowance.charge(0.008) == pytest.approx(0.016)
    # Rested as told, there is nothing left of either.
    now[0] = 100.032
    assert allowance.charge(0.004) == pytest.approx(0.016)
    # However long nothing was wanted, no more is saved up than a burst.
    now[0] = 1000.0
    assert allowance.charge(0.012) == pytest.approx(0.008)


def test_nobody_rests_where_nobody_else_works() -> None:
    is_wanted = False
    allowance = Allowance(0.25, lambda: is_wanted, lambda: 0.0)
    assert allowance.charge(7.0) == 0
    is_wanted = True
    assert allowance.charge(0.1) == pytest.approx(0.4)


def test_no_work_makes_others_wait_longer_than_a_bound() -> None:
    now = [0.0]
    allowance = Allowance(0.25, clock=lambda: now[0])
    assert allowance.charge(60.0) == pytest.approx(2.0)
    # What goes beyond is forgiven, not owed later.
    now[0] = 2.0
    assert allowance.charge(0.0) == 0


def test_a_rest_ends_once_nobody_else_works() -> None:
    is_wanted = True
    thread = FairThread("test", Allowance(0.0001, lambda: is_wanted, max_rest=1000))
    try:
        thread.submit(lambda: burn(0.1)).result(timeout=60)
        waiting = thread.submit(lambda: 7)
        is_wanted = False
        assert waiting.result(timeout=60) == 7
    finally:
        thread.close()


def test_what_is_cancelled_leaves_the_queue_and_its_owner_nothing_behind() -> None:
    thread = FairThread("test")
    begun, gate = Event(), Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    try:
        thread.submit(hold)
        assert begun.wait(10)
        waiting = [thread.submit(lambda: None, owner) for owner in ("a", "a", "b")]
        assert waiting[0].cancel()
        assert [len(queue) for queue in thread._queues.values()] == [1, 1]
        assert waiting[1].cancel()
        assert list(thread._queues) == ["b"]
        gate.set()
        waiting[2].result(timeout=10)
    finally:
        gate.set()
        thread.close()


def test_a_thread_that_rests_can_be_closed_and_keeps_its_turns() -> None:
    thread = FairThread("test", Allowance(0.0001, max_rest=1000))
    thread.submit(lambda: burn(0.1)).result(timeout=60)
    waiting = thread.submit(lambda: None)
    thread.close()
    with pytest.raises(CancelledError):
        waiting.result(timeout=10)


def test_what_waits_is_cancelled_at_the_end_and_nothing_more_is_taken() -> None:
    thread = FairThread("test")
    begun, gate = Event(), Event()

    def hold() -> None:
        begun.set()
        gate.wait()

    running = thread.submit(hold)
    assert begun.wait(10)
    waiting = thread.submit(lambda: None)
    thread.close()
    gate.set()
    with pytest.raises(CancelledError):
        waiting.result(timeout=10)
    running.result(timeout=10)
    with pytest.raises(RuntimeError, match="closed"):
        thread.submit(lambda: None)
