"""Outcomes of clients: wrong, late, of nobody known; and units that are forgotten."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, select
from tests.server.experiments.manager_calls import (
    NAMES,
    WHY,
    Clock,
    begun,
    managing,
    outcome,
    run,
    serve,
)

from bosal_server.database import Database
from bosal_server.experiments import retention
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.records import OutcomeStatus
from bosal_server.experiments.tables import UNITS


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"value": float("nan")}, "INVALID_OUTCOME", "finite"),
        ({"value": float("inf")}, "INVALID_OUTCOME", "finite"),
        # Its square would drown what all other units add up to.
        ({"value": 1e200}, "INVALID_OUTCOME", "from -1e+15 to 1e+15"),
        ({"value": -1e16}, "INVALID_OUTCOME", "from -1e+15 to 1e+15"),
        ({"value": None}, "INVALID_OUTCOME", "number or a truth"),
        ({"name": "scores"}, "UNKNOWN_METRIC", "did you mean 'score'?"),
        ({"name": "total_ms"}, "INVALID_OUTCOME", "recorded by the server"),
        ({"name": "liked", "value": 0.5}, "INVALID_OUTCOME", "0 or 1"),
        ({"key": "k" * 129}, "INVALID_OUTCOME", "128"),
        ({"exposure_id": "xyz"}, "INVALID_OUTCOME", "exposure_id"),
        ({"exposure_id": None, "unit": "u"}, "INVALID_OUTCOME", "idempotency_key"),
        ({"exposure_id": None}, "INVALID_OUTCOME", "exposure or a unit"),
    ],
)
def test_a_wrong_outcome_is_refused_alone(
    tmp_path: Any, fields: dict[str, Any], reason: str, words: str
) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        exposed = serve(manager, "u")
        wrong = outcome(exposed, **{"value": 1.0, **fields})
        bad, good = await manager.record("exp", [wrong, outcome(exposed)])
        assert bad.status is None
        assert bad.reason == reason
        assert words in bad.message
        assert good.status is OutcomeStatus.RECORDED

    database = Database.open(str(tmp_path / "db"))
    run(database, check)
    database.close()


def test_orphans_and_clocks_that_are_off_are_counted_and_shown(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        exposed = serve(manager, "u")
        results = await manager.record(
            "exp",
            [
                outcome(None, exposure_id="ab" * 16),
                outcome(exposed, at=Clock().now + 3600, key="a"),
                outcome(exposed, at=3.0, key="b"),
            ],
        )
        assert [one.status for one in results] == [
            OutcomeStatus.ORPHAN, OutcomeStatus.RECORDED, OutcomeStatus.RECORDED,
        ]  # fmt: skip
        report = await manager.report("exp", 0)
        assert (report.orphans, report.skewed_outcomes) == (1, 2)
        assert any("not known" in one for one in report.warnings)
        assert any("clock" in one for one in report.warnings)

    run(database, check)


def test_an_exposure_is_the_same_however_its_id_is_written(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        exposed = serve(manager, "u")
        results = [
            (await manager.record("exp", [outcome(exposed, exposure_id=written)]))[0].status
            for written in (exposed.exposure_id.hex(), exposed.exposure_id.hex().upper())
        ]
        assert results == [OutcomeStatus.RECORDED, OutcomeStatus.DUPLICATE]

    run(database, check)


def test_a_unit_is_forgotten_in_every_experiment(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        serve(manager, "u", "r1")
        serve(manager, "u", "r2")
        serve(manager, "w")
        await manager.record("exp", [outcome(None, unit="u", key="k")])
        removed = await manager.delete_unit("u", "", "me")
        assert (removed.exposures, removed.outcomes) == (2, 1)
        rows = [page async for page in manager.export("exp", 0)]
        assert [row.unit for page in rows for row in page.exposures] == [NAMES.unit("exp", "w")]
        assert sum(arm.units for arm in (await manager.report("exp", 0)).arms) == 1
        event, *_ = await manager.events("exp", before=0, limit=1)
        assert event.action == "DELETE_UNIT"
        # Whom it was about is not written down.
        assert "u" not in (event.reason, event.details.split('"'))

    run(database, check)


def test_rows_expire_and_sums_stay(database: Database) -> None:
    async def check() -> None:
        clock = Clock()
        async with managing(database, clock=clock) as manager:
            await begun(manager)
            serve(manager, "u")
            await manager.record("exp", [outcome(None, unit="u", key="k")])
            clock.now += 91 * 86400
            await manager.expire()
            assert [page async for page in manager.export("exp", 0)] == []
            assert sum(arm.units for arm in (await manager.report("exp", 0)).arms) == 1

    asyncio.run(check())


def test_units_are_kept_until_their_experiment_is_long_over(database: Database) -> None:
    def num_units() -> int:
        with database.read() as connection:
            return int(connection.execute(select(func.count()).select_from(UNITS)).scalar() or 0)

    async def check() -> None:
        clock = Clock()
        async with managing(database, clock=clock) as manager:
            await begun(manager)
            for index in range(3):
                serve(manager, f"u{index}")
            clock.now += 91 * 86400
            await manager.report("exp", 0)
            await manager.expire()
            assert num_units() == 3
            await manager.stop("exp", WHY)
            clock.now += 89 * 86400
            await manager.expire()
            assert num_units() == 3
            clock.now += 2 * 86400
            await manager.expire()
            assert num_units() == 0
            assert sum(arm.units for arm in (await manager.report("exp", 0)).arms) == 3

    asyncio.run(check())


def test_more_rows_expire_than_go_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 2)

    async def check() -> None:
        clock = Clock()
        async with managing(database, clock=clock) as manager:
            await begun(manager)
            for index in range(7):
                serve(manager, f"u{index}")
            clock.now += 91 * 86400
            serve(manager, "late")
            await manager.report("exp", 0)
            await manager.expire()
            pages = [page async for page in manager.export("exp", 0)]
            assert sum(len(page.exposures) for page in pages) == 1

    asyncio.run(check())
