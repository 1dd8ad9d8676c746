"""Experiments as the server runs them: state, store, reports and guardrails together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.server.experiments.drafts import draft, metric, variant

from bosal_server.database import Database
from bosal_server.experiments.catalogue import Change
from bosal_server.experiments.enrolment import Assignment, Reason
from bosal_server.experiments.errors import (
    ExperimentExists,
    PromotionBlocked,
    StaleEtag,
    UnknownExperiment,
    WrongState,
)
from bosal_server.experiments.experiment import Experiment, State
from bosal_server.experiments.intake import OutcomeCommand
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.metric import Direction, MetricKind, MetricRole
from bosal_server.experiments.privacy import Pseudonyms
from bosal_server.experiments.records import OutcomeStatus
from bosal_server.recipe_store import RecipeStore

NAMES = Pseudonyms(bytes(32))
RECIPES = RecipeStore.load()
WHY = Change(action="TEST", actor="me", reason="because")


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def managing(
    database: Database, recipes: RecipeStore = RECIPES, clock: Clock | None = None
) -> AsyncIterator[ExperimentManager]:
    manager = ExperimentManager(database, recipes, NAMES, clock=clock or Clock())
    await manager.start()
    try:
        yield manager
    finally:
        await manager.close()


def run(database: Database, check: Callable[[ExperimentManager], Awaitable[None]]) -> None:
    async def checked() -> None:
        async with managing(database) as manager:
            await check(manager)

    asyncio.run(checked())


async def begun(manager: ExperimentManager, **fields: Any) -> Experiment:
    made = await manager.create(draft(**fields), "", "me")
    return await manager.begin(made.name, WHY)


def serve(
    manager: ExperimentManager, unit: str, request: str = "", *, force: str = "", ms: float = 50.0
) -> Assignment:
    """Do what the core does with a request."""
    found = manager.assign("exp", unit, force)
    if not found.is_recorded:
        return found
    exposed = manager.expose(
        found,
        request_id=request or unit,
        model_digest="d",
        seed=1,
        instruction="what?",
        instruction_tokens=3,
    )
    assert exposed is not None
    manager.complete(exposed, {"total_ms": ms, "failed": 0.0}, "STOP_TOKEN")
    return exposed


def outcome(
    exposed: Assignment | None = None, value: float | None = 1.0, **fields: Any
) -> OutcomeCommand:
    defaults: dict[str, Any] = {
        "exposure_id": exposed.exposure_id.hex() if exposed is not None else None,
        "unit": None,
        "name": "score",
        "key": "",
        "at": None,
    }
    return OutcomeCommand(value=value, **{**defaults, **fields})


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


def test_a_broken_guardrail_pauses_by_itself(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        guard = metric(
            "slow", MetricKind.ABOVE, MetricRole.GUARDRAIL, outcome="total_ms",
            threshold=100.0, margin=0.05, direction=Direction.DECREASE,
        )  # fmt: skip
        await begun(manager, metrics=(metric("score", role=MetricRole.PRIMARY), guard))
        for index in range(400):
            unit = f"u{index}"
            slow = manager.assign("exp", unit).variant.key == "steered" and index % 2
            serve(manager, unit, ms=500.0 if slow else 50.0)
        found = await _eventually(manager, lambda e: e.state is State.PAUSED)
        assert "'steered' is worse by at least" in found.state_reason
        event, *_ = await manager.events("exp", before=0, limit=10)
        assert (event.actor, event.action) == ("server", "PAUSE")
        served = manager.assign("exp", "anyone")
        assert (served.variant.key, served.reason) == ("plain", Reason.PAUSED)

    run(database, check)


def test_failures_of_one_variant_pause_at_once(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager, max_failures_per_minute=3)
        for index in range(3):
            exposed = serve(manager, "u", f"r{index}", force="steered")
            manager.complete(exposed, {"failed": 1.0}, "INTERNAL")
        found = await _eventually(manager, lambda e: e.state is State.PAUSED)
        assert found.state_reason == "variant 'steered' failed 3 times within a minute"

    run(database, check)


async def _eventually(
    manager: ExperimentManager, condition: Callable[[Experiment], bool]
) -> Experiment:
    for _ in range(200):
        found = await manager.get("exp")
        if condition(found):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("it never came true")


def test_lost_units_block_a_promotion(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        for index in range(400):
            unit = f"u{index}"
            if manager.assign("exp", unit).variant.key == "plain" or index % 2:
                serve(manager, unit)
        await manager.record("exp", [outcome(None, unit="u1", key="k")])
        report = await manager.report("exp", 0)
        assert report.shares.is_alarm
        assert report.conclusion.startswith("Nothing may be concluded")
        with pytest.raises(PromotionBlocked, match="shares they were given"):
            await manager.promote("exp", "steered", "", WHY)
        done = await manager.promote("exp", "steered", "a known outage", WHY)
        assert done.state is State.PROMOTED
        event, *_ = await manager.events("exp", before=0, limit=1)
        assert "a known outage" in event.details
        assert serve(manager, "u5").variant.key == "steered"

    run(database, check)


def test_a_changed_recipe_blocks_a_promotion(database: Database, tmp_path: Path) -> None:
    async def check() -> None:
        async with managing(database) as manager:
            await begun(manager)
        (tmp_path / "steered.yaml").write_text("rules: [{rule: top_k, k: 1}]\n")
        changed = RecipeStore.load(tmp_path)
        async with managing(database, changed) as manager:
            # What was measured is still what is served.
            served = manager.assign("exp", "u", "steered").variant
            assert served.recipe_version == RECIPES.get("steered").version
            with pytest.raises(PromotionBlocked, match="is now @"):
                await manager.promote("exp", "steered", "", WHY)
            assert any("is now @" in one for one in (await manager.report("exp", 0)).warnings)

    asyncio.run(check())


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


@pytest.mark.parametrize(
    ("fields", "reason", "words"),
    [
        ({"value": float("nan")}, "INVALID_OUTCOME", "finite"),
        ({"value": float("inf")}, "INVALID_OUTCOME", "finite"),
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


def test_a_recipe_in_use_stays(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager, variants=(
            variant("plain", "plain", is_control=True), variant("rules", "rules"),
        ))  # fmt: skip
        with database.read() as connection:
            assert manager.recipe_users(connection, "rules", ()) == ["experiment 'exp'"]
            assert not manager.recipe_users(connection, "steered", ())
        await manager.stop("exp", WHY)
        with database.read() as connection:
            assert not manager.recipe_users(connection, "rules", ())

    run(database, check)


def test_an_unknown_experiment_is_named(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        with pytest.raises(UnknownExperiment, match="did you mean 'exp'"):
            manager.assign("exq", "u")

    run(database, check)
