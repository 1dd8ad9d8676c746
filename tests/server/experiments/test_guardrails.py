"""What pauses an experiment by itself, and what blocks a promotion."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.server.experiments.drafts import metric
from tests.server.experiments.manager_calls import (
    RECIPES,
    WHY,
    begun,
    managing,
    outcome,
    run,
    serve,
)

from bosal_server.database import Database
from bosal_server.experiments.bulk import Bulk
from bosal_server.experiments.enrolment import Reason
from bosal_server.experiments.errors import (
    GuardrailBroken,
    InvalidExperiment,
    PromotionBlocked,
)
from bosal_server.experiments.experiment import Experiment, State
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.metric import Direction, MetricKind, MetricRole
from bosal_server.experiments.tables import TOTALS
from bosal_server.recipe_store import RecipeStore

GUARD = metric(
    "slow", MetricKind.ABOVE, MetricRole.GUARDRAIL, outcome="total_ms",
    threshold=100.0, margin=0.05, direction=Direction.DECREASE,
)  # fmt: skip


async def _paused(manager: ExperimentManager) -> Experiment:
    """Serve until a variant has broken its guardrail."""
    await begun(manager, metrics=(metric("score", role=MetricRole.PRIMARY), GUARD))
    for index in range(400):
        unit = f"u{index}"
        slow = manager.assign("exp", unit).variant.key == "steered" and index % 2
        serve(manager, unit, ms=500.0 if slow else 50.0)
    return await _eventually(manager, lambda e: e.state is State.PAUSED)


def test_a_broken_guardrail_pauses_by_itself(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        found = await _paused(manager)
        assert "'steered' is worse by at least" in found.state_reason
        event, *_ = await manager.events("exp", before=0, limit=10)
        assert (event.actor, event.action) == ("server", "PAUSE")
        served = manager.assign("exp", "anyone")
        assert (served.variant.key, served.reason) == ("plain", Reason.PAUSED)

    run(database, check)


def test_an_experiment_goes_on_in_spite_of_a_guardrail_only_if_it_is_named(
    database: Database,
) -> None:
    """Or it would be paused again a second after somebody started it."""

    async def check(manager: ExperimentManager) -> None:
        await _paused(manager)
        with pytest.raises(
            GuardrailBroken, match="'steered' is worse.*Acknowledge slow"
        ) as failure:
            await manager.begin("exp", WHY)
        assert failure.value.metadata["guardrails"] == "slow"
        for wrong in ("slwo", "score"):
            with pytest.raises(InvalidExperiment, match="no guardrail is called.*slow"):
                await manager.begin("exp", WHY, [wrong])
        found = await manager.begin("exp", WHY, ["slow"])
        assert found.acknowledged_guardrails == ("slow",)
        event, *_ = await manager.events("exp", before=0, limit=1)
        assert "slow" in event.details
        await manager._watcher.look()
        assert (await manager.get("exp")).state is State.RUNNING
        report = await manager.report("exp", 0)
        assert any("in spite of its guardrails: slow" in one for one in report.warnings)
        # What is acknowledged stays so for as long as its evidence counts.
        await manager.pause("exp", WHY)
        await manager.begin("exp", WHY)
        found = await manager.new_phase("exp", {"plain": 500_000, "steered": 500_000}, WHY)
        assert found.acknowledged_guardrails == ()
        await manager._watcher.look()
        assert (await manager.get("exp")).state is State.RUNNING

    run(database, check)


def test_a_new_phase_begins_without_the_old_evidence(database: Database) -> None:
    async def check(manager: ExperimentManager) -> None:
        await _paused(manager)
        await manager.new_phase("exp", {"plain": 900_000, "steered": 100_000}, WHY)
        await manager.begin("exp", WHY)
        await manager._watcher.look()
        assert (await manager.get("exp")).state is State.RUNNING

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


def test_an_experiment_that_cannot_be_looked_at_blinds_the_server_to_no_other(
    database: Database,
) -> None:
    async def check(manager: ExperimentManager) -> None:
        await begun(manager)
        await begun(manager, name="a-broken-one")
        with database.write() as connection:
            entry = manager._catalogue.get("a-broken-one")
            Bulk(connection).put(TOTALS, [(entry.id, 1, 0, "score", '["what?"]')])
        await _eventually(manager, lambda _: manager.store_counts().mismatched == {"exp": False})

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
        # The watcher tells the metrics.
        await _eventually(manager, lambda _: manager.store_counts().mismatched == {"exp": True})
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
