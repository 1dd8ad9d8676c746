"""What is written down, once each, and the sums that follow it, on SQLite and PostgreSQL."""

import json
import random
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.server.experiments.drafts import draft

from bosal_server.database import Database
from bosal_server.experiments.experiment import Phase
from bosal_server.experiments.ledger import post
from bosal_server.experiments.metric import contribution
from bosal_server.experiments.records import (
    Completion,
    Entry,
    Expiry,
    Exposure,
    Outcome,
    Outcomes,
    OutcomeStatus,
    Record,
    Removal,
    Removed,
)
from bosal_server.experiments.tables import (
    COMPLETIONS,
    EXPOSURES,
    OUTCOMES,
    TEXTS,
    TOTALS,
    UNITS,
)
from bosal_server.experiments.totals import ArmCounts, Totals, read_totals
from bosal_server.statistics.moments import Moments

ENTRY = Entry(7, draft())
RECORDED, DUPLICATE, ORPHAN, CONFLICT = OutcomeStatus


def key(text: str) -> bytes:
    return text.encode().ljust(16, b".")


def exposure(id_: str, unit: str, variant: int = 0, **fields: Any) -> Exposure:
    defaults: dict[str, Any] = {
        "entry": ENTRY,
        "phase": 1,
        "is_forced": False,
        "recipe_version": "v",
        "model_digest": "d",
        "seed": 2**40,
        "instruction_tokens": 10,
        "instruction": key("text"),
        "at": 1000.0,
    }
    return Exposure(id=key(id_), unit=key(unit), variant=variant, **{**defaults, **fields})


def completion(id_: str, total_ms: float = 50.0, **fields: Any) -> Completion:
    outcomes = {"total_ms": total_ms, "failed": 0.0}
    defaults: dict[str, Any] = {"outcomes": outcomes, "finish_reason": "STOP_TOKEN", "at": 1001.0}
    return Completion(entry=ENTRY, exposure=key(id_), **{**defaults, **fields})


def outcome(
    id_: str, name: str = "score", value: float = 1.0, *, exposed: str = "", unit: str = ""
) -> Outcome:
    return Outcome(
        key=key(id_),
        exposure=key(exposed) if exposed else None,
        unit=key(unit) if unit else None,
        name=name,
        value=value,
        at=1002.0,
    )


def outcomes(*some: Outcome) -> Outcomes:
    return Outcomes(ENTRY, some)


@dataclass
class Store:
    """A database with what was told to it."""

    database: Database

    def tell(self, *records: Record) -> list[Any]:
        with self.database.write() as connection:
            return list(post(connection, records))

    def totals(self, phase: int = 1) -> Totals:
        with self.database.read() as connection:
            return read_totals(connection, ENTRY, phase)

    def count(self, table: Any) -> int:
        with self.database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(table)).scalar() or 0)


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


def test_a_request_told_twice_is_one_exposure(store: Store) -> None:
    store.tell(exposure("a", "u"), exposure("a", "u"))
    store.tell(exposure("a", "u"), completion("a"), completion("a"))
    store.tell(completion("a", 999.0))
    assert store.totals().arms[0] == ArmCounts(units=1, requests=1, completed=1)
    assert store.totals().arm(0, "slow") == Moments.of([0.0], covariates=[10.0])


def test_outcomes_count_once_and_say_what_became_of_them(store: Store) -> None:
    store.tell(exposure("a", "u", 1))
    told = store.tell(
        outcomes(
            outcome("k1", value=2.0, exposed="a"),
            outcome("k1", value=2.0, exposed="a"),
            outcome("k1", value=3.0, exposed="a"),
            outcome("k2", value=4.0, unit="u"),
            outcome("k3", exposed="nobody"),
        )
    )
    assert told == [[RECORDED, DUPLICATE, CONFLICT, RECORDED, ORPHAN]]
    again = store.tell(
        outcomes(outcome("k2", value=4.0, unit="u"), outcome("k1", value=2.5, exposed="a"))
    )
    assert again == [[DUPLICATE, CONFLICT]]
    totals = store.totals()
    assert totals.orphans == 1
    # The unit's mean of two values, and their sum a request.
    assert totals.arm(1, "score").y == 3.0
    assert totals.arm(1, "per_request").y == 6.0


def test_outcomes_that_come_first_are_counted_when_their_exposure_does(store: Store) -> None:
    store.tell(outcomes(outcome("k1", value=2.0, exposed="a"), outcome("k2", value=6.0, unit="u")))
    assert store.totals().orphans == 2
    store.tell(exposure("a", "u"))
    assert store.totals().orphans == 0
    assert store.totals().arm(0, "score").y == 4.0
    assert store.tell(outcomes(outcome("k2", value=6.0, unit="u"))) == [[DUPLICATE]]


def test_a_unit_without_outcome_counts_in_a_proportion_alone(store: Store) -> None:
    store.tell(exposure("a", "u"), exposure("b", "v"))
    store.tell(outcomes(outcome("k", "liked", 1.0, exposed="a")))
    assert store.totals().arm(0, "liked").proportion().value == 0.5
    assert store.totals().arm(0, "score").units == 0


def test_forced_requests_are_kept_and_never_counted(store: Store) -> None:
    store.tell(exposure("a", "u", 1, is_forced=True), completion("a"))
    assert store.tell(outcomes(outcome("k", exposed="a"))) == [[RECORDED]]
    assert store.totals() == Totals((ArmCounts(), ArmCounts()))
    assert (store.count(EXPOSURES), store.count(COMPLETIONS), store.count(OUTCOMES)) == (1, 1, 1)


def test_a_unit_in_two_arms_is_dropped_for_good(store: Store) -> None:
    store.tell(exposure("a", "u", 0), exposure("b", "w", 0))
    store.tell(outcomes(outcome("k", value=5.0, exposed="a")))
    store.tell(exposure("c", "u", 1))
    store.tell(outcomes(outcome("l", value=5.0, exposed="c")), exposure("d", "u", 0))
    totals = store.totals()
    assert totals.arms == (ArmCounts(units=1, requests=1, mixed=1), ArmCounts())
    assert totals.arm(0, "score") == Moments()


def test_phases_are_kept_apart(store: Store) -> None:
    store.tell(exposure("a", "u", 0), exposure("b", "u", 1, phase=2))
    store.tell(outcomes(outcome("k", value=3.0, exposed="a"), outcome("l", value=9.0, unit="u")))
    assert store.totals(1).arms == (ArmCounts(units=1, requests=1), ArmCounts())
    assert store.totals(1).arm(0, "score").y == 3.0
    # An outcome of a unit belongs to the last phase it was in.
    assert store.totals(2).arm(1, "score").y == 9.0


def test_a_late_outcome_is_of_the_phase_it_happened_in(store: Store) -> None:
    phases = tuple(
        Phase(number=number, weights_ppm=(500_000, 500_000), start=start)
        for number, start in ((1, 0.0), (2, 2000.0), (3, 3000.0))
    )
    entry = Entry(7, draft(phases=phases))
    store.tell(exposure("a", "u", 0), exposure("b", "u", 1, phase=2))
    late = [
        replace(outcome(f"k{at:g}", value=at, unit="u"), at=at) for at in (1500.0, 2500.0, 3500.0)
    ]
    store.tell(Outcomes(entry, late))
    assert store.totals(1).arm(0, "score").y == 1500.0
    # The unit was not in the third.
    assert store.totals(2).arm(1, "score").y == 3000.0


def test_a_forgotten_unit_is_gone_everywhere(store: Store) -> None:
    text = ("what?", "that", 2000.0)
    before = store.totals()
    kept = (exposure("k", "keeps"), completion("k"), outcomes(outcome("k", exposed="k")))
    store.tell(*kept)
    others = store.totals()
    store.tell(exposure("a", "u"), completion("a", text=text), exposure("b", "u", phase=2))
    store.tell(outcomes(outcome("x", exposed="a"), outcome("y", unit="u")))
    assert store.tell(Removal(ENTRY, key("u"))) == [Removed(2, 2)]
    assert store.totals() == others
    assert store.totals(2).units == 0
    for table in (EXPOSURES, COMPLETIONS, OUTCOMES, UNITS):
        assert store.count(table) == 1
    assert store.count(TEXTS) == 0
    assert store.tell(Removal(ENTRY, key("u"))) == [Removed(0, 0)]
    store.tell(Removal(ENTRY, key("keeps")))
    assert store.totals().arms == before.arms


def test_a_forgotten_unit_takes_with_it_what_it_drowned(store: Store) -> None:
    generator = random.Random(1)
    for index in range(40):
        name = f"a{index}"
        told = outcome(name, value=generator.gauss(0, 1), exposed=name)
        store.tell(exposure(name, f"u{index}"), outcomes(told))
    before = store.totals().arm(0, "score")
    store.tell(exposure("huge", "huge"), outcomes(outcome("huge", value=1e14, exposed="huge")))
    for index in range(40, 60):
        store.tell(exposure(f"a{index}", f"u{index}"))
    # Its square has thirty digits more than theirs.
    assert store.totals().arm(0, "score").yy == 1e28
    store.tell(Removal(ENTRY, key("huge")))
    assert store.totals().arm(0, "score").numbers == pytest.approx(before.numbers, rel=1e-12)
    assert store.totals().arm(0, "score").mean().unit_variance == pytest.approx(
        before.mean().unit_variance, rel=1e-9
    )


def test_a_text_may_hold_any_character(store: Store) -> None:
    text = ("what\0?", "that\0", 2000.0)
    store.tell(exposure("a", "u"), completion("a", text=text))
    assert (store.count(COMPLETIONS), store.count(TEXTS)) == (1, 1)
    assert store.totals().arms[0].completed == 1


def test_what_has_expired_leaves_the_sums(store: Store) -> None:
    store.tell(exposure("a", "u"), completion("a"), outcomes(outcome("k", exposed="a")))
    totals = store.totals()
    store.tell(Expiry(ENTRY, [key("a")], [key("k")]))
    assert store.totals() == totals
    assert store.count(EXPOSURES) == store.count(OUTCOMES) == store.count(COMPLETIONS) == 0


def test_sums_kept_by_differences_are_those_of_the_units(store: Store) -> None:
    generator = random.Random(3)
    known: list[str] = []
    for batch in range(12):
        records: list[Record] = []
        for index in range(40):
            name = f"{batch}-{index}"
            unit = f"u{generator.randrange(60)}"
            # Some units come back in another arm.
            arm = int(unit[1:]) % 2 if generator.random() < 0.97 else generator.randrange(2)
            records.append(exposure(name, unit, arm, instruction_tokens=generator.randrange(30)))
            known.append(name)
            records.append(completion(generator.choice(known), generator.uniform(0, 200)))
            target = generator.choice(known)
            values = (
                outcome(f"s{name}", "score", generator.gauss(0, 1e3), exposed=target),
                outcome(f"l{name}", "liked", float(generator.random() < 0.2), exposed=target),
            )
            records.append(outcomes(*values))
        if batch % 4 == 3:
            records.append(Removal(ENTRY, key(f"u{generator.randrange(60)}")))
        store.tell(*records)
    _same(store.totals(), _from_units(store))


def _from_units(store: Store) -> Totals:
    """Sum over the unit table itself."""
    moments: dict[tuple[int, str], Moments] = {}
    with store.database.read() as connection:
        for row in connection.execute(select(UNITS).where(~UNITS.c.is_mixed)):
            tallies = {name: tuple(pair) for name, pair in json.loads(row.tallies).items()}
            for metric in ENTRY.experiment.metrics:
                found = contribution(metric, tallies, row.requests, row.covariate)
                if found is not None:
                    place = (row.variant, metric.name)
                    moments[place] = moments.get(place, Moments()) + Moments.read(found)
    return Totals((), moments)


def _same(found: Totals, wanted: Totals) -> None:
    assert {place for place, sums in found.moments.items() if sums.units} == wanted.moments.keys()
    for place, sums in wanted.moments.items():
        assert found.moments[place].numbers == pytest.approx(sums.numbers, rel=1e-9, abs=1e-6)


def test_the_table_of_totals_stays_small(store: Store) -> None:
    for index in range(30):
        store.tell(exposure(f"a{index}", f"u{index}", index % 2), completion(f"a{index}"))
    assert store.count(TOTALS) <= 2 * (1 + len(ENTRY.experiment.metrics)) + 1
