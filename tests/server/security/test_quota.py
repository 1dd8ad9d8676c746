"""Quotas: a bucket of tokens that fills up in a minute, and choices at once."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bosal_server.security.caller import ANYBODY, Caller
from bosal_server.security.errors import QuotaExceeded, QuotaTooSmall
from bosal_server.security.quota import Lease, QuotaLedger


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_choices_at_once_are_counted_until_they_end() -> None:
    ledger = QuotaLedger(Clock())
    caller = Caller(key_id="a", max_choices=3)
    first = ledger.lease(caller, choices=2, tokens=10**9)
    with pytest.raises(QuotaExceeded) as failure:
        ledger.lease(caller, choices=2, tokens=1)
    assert failure.value.retry_after > 0
    second = ledger.lease(caller, choices=1, tokens=1)
    first.end(0)
    first.end(0)
    ledger.lease(caller, choices=2, tokens=1)
    second.end(0)


def test_tokens_come_back_with_time_and_what_was_not_used_at_once() -> None:
    clock = Clock()
    ledger = QuotaLedger(clock)
    caller = Caller(key_id="a", tokens_per_minute=600)
    lease = ledger.lease(caller, choices=1, tokens=600)
    with pytest.raises(QuotaExceeded) as failure:
        ledger.lease(caller, choices=1, tokens=100)
    assert failure.value.retry_after == pytest.approx(10)
    clock.now = 10
    ledger.lease(caller, choices=1, tokens=100)
    lease.end(500)
    ledger.lease(caller, choices=1, tokens=100)
    with pytest.raises(QuotaExceeded):
        ledger.lease(caller, choices=1, tokens=1)


def test_keys_do_not_share() -> None:
    ledger = QuotaLedger(Clock())
    for name in "ab":
        ledger.lease(Caller(key_id=name, max_choices=1), choices=1, tokens=1)


def test_what_can_never_be_had_is_no_matter_of_time() -> None:
    ledger = QuotaLedger(Clock())
    with pytest.raises(QuotaTooSmall):
        ledger.lease(Caller(key_id="a", max_choices=1), choices=2, tokens=1)
    with pytest.raises(QuotaTooSmall):
        ledger.lease(Caller(key_id="a", tokens_per_minute=9), choices=1, tokens=10)


def test_what_is_known_afterwards_is_paid_by_time() -> None:
    clock = Clock()
    ledger = QuotaLedger(clock)
    caller = Caller(key_id="a", tokens_per_minute=600)
    ledger.check(caller)
    ledger.spend(caller, 800)
    for ask in (ledger.check, lambda one: ledger.lease(one, choices=1, tokens=1)):
        with pytest.raises(QuotaExceeded) as failure:
            ask(caller)
        assert failure.value.retry_after == pytest.approx(20.1)
    clock.now = 20.2
    ledger.check(caller)
    ledger.lease(caller, choices=1, tokens=1)


def test_a_call_that_is_given_up_counts_as_it_was_guessed_and_a_refused_one_not_at_all() -> None:
    ledger = QuotaLedger(Clock())
    caller = Caller(key_id="a", tokens_per_minute=600)

    def left() -> float:
        return ledger._accounts["a"].tokens

    with ledger.spending(caller, 100) as spending:
        # Others that come meanwhile find it counted.
        assert left() == 500
        spending.tokens = 250
    assert left() == 350
    with pytest.raises(ValueError, match="wrong"), ledger.spending(caller, 100):
        raise ValueError("wrong")
    assert left() == 350
    with pytest.raises(asyncio.CancelledError), ledger.spending(caller, 100):
        raise asyncio.CancelledError
    assert left() == 250


def test_a_key_that_has_spent_nothing_for_long_has_a_minutes_tokens() -> None:
    clock = Clock()
    ledger = QuotaLedger(clock)
    caller = Caller(key_id="a", tokens_per_minute=600)
    ledger.spend(caller, 300)
    clock.now = 3600
    ledger.lease(caller, choices=1, tokens=600)
    with pytest.raises(QuotaExceeded):
        ledger.check(caller)


def test_nobodys_quota_is_kept_where_there_is_none() -> None:
    ledger = QuotaLedger(Clock())
    for _ in range(1000):
        ledger.lease(ANYBODY, choices=1000, tokens=10**9)
        ledger.check(ANYBODY)
        ledger.spend(ANYBODY, 10**9)
    assert not ledger._accounts


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.floats(0, 20), st.floats(0, 1), st.booleans()),
        max_size=60,
    )
)
def test_no_order_of_events_spends_more_than_the_quota(
    events: list[tuple[int, float, float, bool]],
) -> None:
    clock = Clock()
    ledger = QuotaLedger(clock)
    caller = Caller(key_id="a", tokens_per_minute=300)
    spent, leases = 0, list[tuple[Lease, int]]()
    for tokens, pause, share, ends in events:
        clock.now += pause
        with suppress(QuotaExceeded):
            leases.append((ledger.lease(caller, choices=1, tokens=tokens), int(tokens * share)))
        if ends and leases:
            lease, used = leases.pop(0)
            lease.end(used)
            spent += used
        # Whoever had the whole bucket and all that flowed in since has had no more than this.
        assert spent <= 300 + clock.now * 5 + 1e-6
