"""Experiments as the server runs them: state, store and reports together."""

import asyncio

import numpy as np
import pytest
from tests.server.experiments.drafts import draft, metric, variant
from tests.server.experiments.manager_calls import (
    WHY,
    begun,
    managing,
    outcome,
    run,
    serve,
)

from bosal_server.database import Database
from bosal_server.experiments.catalogue import Change
from bosal_server.experiments.enrolment import Reason
from bosal_server.experiments.errors import (
    ExperimentExists,
    StaleEtag,
    UnknownExperiment,
    WrongState,
)
from bosal_server.experiments.experiment import State
from bosal_server.experiments.intake import OutcomeCommand
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.metric import MetricKind, MetricRole
from bosal_server.experiments.records import OutcomeStatus


def test_units_are_served_recorded_and_reported(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        exposed = [serve(manager, f"u{index}") for index in range(200)]
        # A retry is no second exposure.
        assert serve(manager, "u0").exposure_id == exposed[0].exposure_id
        results = await manager.record(
            "exp",
            [outcome(one, float(one.variant.key == "steered")) for one in exposed]
            + [outcome(exposed[0], float(exposed[0].variant.key == "steered"))],
        )
        assert [one.status for one in results[:200]] == [OutcomeStatus.RECORDED] * 200
        assert results[200].status is OutcomeStatus.DUPLICATE
        report = await manager.report("exp", 0, with_distributions=True)
        assert sum(arm.units for arm in report.arms) == 200
        assert sum(arm.requests for arm in report.arms) == 200
        assert sum(arm.completed for arm in report.arms) == 200
        assert not report.shares.is_alarm
        primary = report.metrics[0]
        assert [arm.value for arm in primary.arms] == [0.0, 1.0]
        assert {one.outcome for one in report.distributions} == {"total_ms"}

    run(database, check)


def test_a_clear_effect_is_said_in_words(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager, planned_units=400)
        exposed = [serve(manager, f"u{index}") for index in range(400)]
        values = [
            (index % 10) / 10 + 0.5 * (one.variant.key == "steered")
            for index, one in enumerate(exposed)
        ]
        await manager.record("exp", [outcome(o, v) for o, v in zip(exposed, values, strict=True)])
        report = await manager.report("exp", 0)
        (effect,) = report.metrics[0].effects
        assert effect.verdict == "better"
        assert effect.low is not None
        assert effect.low > 0.3
        assert "steered is better than plain in score" in report.conclusion
        assert "however often one has looked" in report.conclusion
        assert "decide nothing" in report.conclusion

    run(database, check)


def test_no_difference_is_not_called_equality(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        exposed = [serve(manager, f"u{index}") for index in range(200)]
        await manager.record("exp", [outcome(o, float(i % 2)) for i, o in enumerate(exposed)])
        report = await manager.report("exp", 0)
        assert "no decision" in report.conclusion
        assert "does not show that they are equal" in report.conclusion

    run(database, check)


def test_a_fixed_plan_is_not_decided_early(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager, is_fixed_horizon=True, planned_units=1000)
        exposed = [serve(manager, f"u{index}") for index in range(300)]
        await manager.record("exp", [outcome(o, float(i % 2)) for i, o in enumerate(exposed)])
        (effect,) = (await manager.report("exp", 0)).metrics[0].effects
        assert effect.low is None
        assert effect.verdict == "planned for 1000 units, 300 are there"

    run(database, check)


def test_a_fixed_plan_counts_every_variants_units_and_holds_for_one_look(
    database: Database,
) -> None:
    async def check(manager: ExperimentManager) -> None:
        sides = (
            variant("plain", "plain", 400_000, is_control=True),
            variant("steered", "steered", 300_000),
            variant("other", "steered", 300_000),
        )
        await begun(manager, is_fixed_horizon=True, planned_units=600, variants=sides)
        exposed = [serve(manager, f"u{index}") for index in range(600)]
        # Only two in three ever have a value.
        await manager.record(
            "exp", [outcome(o, float(i % 2)) for i, o in enumerate(exposed) if i % 3]
        )
        report = await manager.report("exp", 0)
        assert all(one.low is not None for one in report.metrics[0].effects)
        assert not any("one look" in one for one in report.warnings)
        serve(manager, "one more")
        (warning,) = (await manager.report("exp", 0)).warnings
        assert "planned for one look at 600 units, 601 are there" in warning

    run(database, check)


def test_quantiles_are_of_all_a_units_values_however_they_were_named(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        middle = metric("seconds", MetricKind.QUANTILE, level=0.5)
        await begun(manager, metrics=(metric("score", role=MetricRole.PRIMARY), middle))
        told: list[OutcomeCommand] = []
        wanted: dict[str, list[float]] = {"plain": [], "steered": []}
        for index in range(200):
            one = serve(manager, f"u{index}")
            value = float(index)
            by_unit = outcome(None, value, name="seconds", unit=f"u{index}", key=f"k{index}")
            told.append(by_unit if index % 2 else outcome(one, value, name="seconds"))
            wanted[one.variant.key].append(value)
        forced = serve(manager, "u1", "debug", force="steered")
        told.append(outcome(forced, 1e6, name="seconds"))
        await manager.record("exp", told)
        report = await manager.report("exp", 0, with_distributions=True)
        arms = {arm.variant: arm for arm in report.metrics[1].arms}
        for key, values in wanted.items():
            assert arms[key].count == len(values)
            assert arms[key].value == np.quantile(values, 0.5, method="inverted_cdf")

    run(database, check)


def test_creating_twice_is_safe_and_another_ones_name_is_taken(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        first = await manager.create(draft(), "request-1", "me")
        assert await manager.create(draft(), "request-1", "me") == first
        for request in ("request-2", ""):
            with pytest.raises(ExperimentExists):
                await manager.create(draft(), request, "me")

    run(database, check)


def test_an_old_etag_changes_nothing(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        made = await manager.create(draft(), "", "me")
        running = await manager.begin("exp", Change(action="START", etag=made.etag))
        with pytest.raises(StaleEtag, match=running.etag):
            await manager.pause("exp", Change(action="PAUSE", etag=made.etag))
        assert (await manager.get("exp")).state is State.RUNNING
        with pytest.raises(WrongState, match="RUNNING"):
            await manager.begin("exp", WHY)
        assert [e.action for e in await manager.events("exp", before=0, limit=9)] == [
            "START",
            "CREATE",
        ]

    run(database, check)


def test_two_servers_on_one_database_agree(database: Database) -> None:
    async def check() -> None:
        async with managing(database) as one, managing(database) as other:
            await begun(one)
            await other.get("exp")
            for index in range(60):
                unit = f"u{index}"
                assert one.assign("exp", unit).variant == other.assign("exp", unit).variant
                # The same request through both is one exposure.
                serve(one, unit)
                serve(other, unit)
            await one.pause("exp", WHY)
            await other.get("exp")
            assert other.assign("exp", "u1").reason is Reason.PAUSED
            for manager in (one, other):
                # Whatever was queued before is on disk when this is.
                await manager.record("exp", [outcome(None, unit="u1", key=f"k{id(manager)}")])
            report = await other.report("exp", 0)
            assert sum(arm.units for arm in report.arms) == 60
            assert sum(arm.requests for arm in report.arms) == 60
            assert sum(arm.completed for arm in report.arms) == 60

    asyncio.run(check())


def test_phases_report_apart(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        for index in range(30):
            serve(manager, f"u{index}")
        await manager.new_phase("exp", {"plain": 900_000, "steered": 100_000}, WHY)
        for index in range(20):
            serve(manager, f"u{index}")
        await manager.record("exp", [outcome(None, unit="u1", key="k")])
        first, second = await manager.report("exp", 1), await manager.report("exp", 0)
        assert [sum(arm.units for arm in r.arms) for r in (first, second)] == [30, 20]
        assert "phase 2 alone; phases are never pooled" in second.warnings

    run(database, check)


def test_an_unknown_experiment_is_named(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        with pytest.raises(UnknownExperiment, match="did you mean 'exp'"):
            manager.assign("exq", "u")

    run(database, check)
