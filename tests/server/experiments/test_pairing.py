"""Exposures beside other variants: counted once, told to their units, and forgotten with them."""

from typing import Any

import pytest
from tests.server.experiments.test_ledger import ENTRY, Store, exposure, key, outcome, outcomes

from bosal_server.database import Database
from bosal_server.experiments.records import Expiry, Pair, PairKind, Pairs, Removal
from bosal_server.experiments.tables import PAIRS
from bosal_server.statistics.moments import Moments


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def pairs(id_: str, **fields: Any) -> Pairs:
    pair = Pair(**{"kind": PairKind.HELD, "variant": 1, **fields})
    return Pairs(ENTRY, key(id_), [pair], 1003.0)


PARTED = {
    "position": 4, "control_token": b"a", "token": b"b", "cause": "RULE", "rules": ("top_k",)
}  # fmt: skip


def test_pairs_count_once_and_tell_their_unit_whether_it_was_touched(store: Store) -> None:
    store.tell(exposure("a", "u", 0), exposure("b", "v", 1), exposure("c", "w", 1))
    store.tell(pairs("a", **PARTED), pairs("b", is_touched=False), pairs("b", **PARTED))
    store.tell(pairs("a", **PARTED), pairs("c", is_known=False), pairs("unknown", **PARTED))
    told = (outcome(f"s{name}", value=2.0, exposed=name) for name in "abc")
    store.tell(outcomes(*told))
    totals = store.totals()
    assert {name: number for name, number in totals.pairs[1].items() if number} == {
        "pairs": 2, "equal": 1, "RULE": 1, "positions": 4, "touched": 2, "unknown": 1,
    }  # fmt: skip
    assert totals.rules == {1: {"top_k": 1}}
    # Touched: the control's unit, and the one that could not be held.
    assert totals.arm(0, "~1") == Moments.of([2.0], covariates=[10.0])
    assert totals.arm(1, "~1") == Moments.of([2.0], covariates=[10.0])
    assert totals.arm(1, "score").units == 2


def test_a_forgotten_unit_takes_its_pairs_along(store: Store) -> None:
    shadow = {"kind": PairKind.SHADOW, "variant": 2, "outcomes": {"output_tokens": (3.0, 5.0)}}
    store.tell(exposure("a", "u"), exposure("b", "v"))
    store.tell(pairs("a", **PARTED), pairs("a", **shadow), pairs("b", **shadow, **PARTED))
    assert store.totals().arm(2, "=output_tokens") == Moments.of([5.0, 5.0], covariates=[3.0, 3.0])
    store.tell(Removal(ENTRY, key("u")))
    totals = store.totals()
    assert totals.pairs[1]["pairs"] == totals.pairs[1]["touched"] == 0
    assert totals.pairs[2]["pairs"] == 1
    assert totals.arm(2, "=output_tokens") == Moments.of([5.0], covariates=[3.0])
    assert store.count(PAIRS) == 1
    store.tell(Expiry(ENTRY, [key("b")], []))
    assert store.count(PAIRS) == 0
    assert store.totals() == totals


def test_what_was_forced_into_its_variant_makes_no_pair(store: Store) -> None:
    store.tell(exposure("a", "u", 1, is_forced=True), pairs("a", **PARTED))
    assert store.count(PAIRS) == 0
    assert store.totals().pairs == {}
