"""Live requests held against the other variants, beside runs of these by themselves."""

from typing import Any

import pytest
from tests.server.experiments.drafts import metric
from tests.server.held import alone, begin, first_difference, inline, reported, served
from tests.server.test_core import run

from bosal_server.core import GenerationCore
from bosal_server.engine.loop import EngineLoop
from bosal_server.experiments.errors import InvalidExperiment
from bosal_server.experiments.metric import MetricRole
from bosal_server.experiments.report import DivergenceReport
from bosal_server.model import LoadedModel

METRICS = (
    metric("score", role=MetricRole.PRIMARY),
    metric("changed_share"),
    metric("kl_dose"),
    metric("shifted_share"),
)
UNITS = [f"u{index}" for index in range(6)]


def test_where_a_request_would_part_is_where_the_other_variant_parts(
    tiny_llama: LoadedModel,
) -> None:
    control = inline("control", weight=500_000, is_control=True)
    cold = inline("cold", {"rule": "temperature", "value": 0.5}, weight=500_000)

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        await begin(core, variants=(control, cold), metrics=METRICS)
        arms = set()
        wanted: dict[str, int | None] = {}
        for seed, unit in enumerate(UNITS):
            arm, tokens = await served(core, unit, seed=seed)
            arms.add(arm)
            ours, theirs = [await alone(core, one, seed=seed) for one in (control, cold)]
            assert tokens == (ours if arm == "control" else theirs)
            wanted[unit] = first_difference(ours, theirs)
        assert arms == {"control", "cold"}
        parted = [place for place in wanted.values() if place is not None]
        assert parted, "seeds at which nothing parts test nothing"
        report = await reported(core)
        (found,) = report.divergences
        assert (found.variant, found.requests, found.unknown) == ("cold", len(UNITS), 0)
        assert found.equal == len(UNITS) - len(parted)
        assert found.causes == {"RULE": len(parted)}
        assert found.rules == {"temperature": len(parted)}
        assert found.mean_position == pytest.approx(sum(parted) / len(parted))
        assert sorted(one.position for one in found.examples) == sorted(parted)
        assert all(one.control_token != one.token for one in found.examples)
        (dose,) = report.doses
        assert (dose.requests, dose.touched) == (len(UNITS), len(parted))
        values = {
            one.metric.name: {arm.variant: arm.value for arm in one.arms} for one in report.metrics
        }
        for name in ("changed_share", "kl_dose"):
            assert values[name]["control"] == 0.0
            assert (values[name]["cold"] or 0.0) > 0.0

    run(tiny_llama, check)


def test_a_request_that_cannot_be_held_for_want_of_memory_is_served_and_unknown(
    tiny_llama: LoadedModel,
) -> None:
    control = inline("control", weight=500_000, is_control=True)
    cold = inline("cold", {"rule": "temperature", "value": 0.5}, weight=500_000)

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        await begin(core, variants=(control, cold), metrics=METRICS)
        for seed, unit in enumerate(UNITS):
            arm, tokens = await served(core, unit, seed=seed)
            assert tokens == await alone(core, control if arm == "control" else cold, seed=seed)
        (found,) = (await reported(core)).divergences
        assert (found.requests, found.equal, found.unknown) == (0, 0, len(UNITS))
        assert not found.causes

    run(tiny_llama, check, max_shadows=2)


@pytest.mark.parametrize(
    ("rules", "touched"),
    [
        # Changes nothing at all.
        ([{"rule": "top_p", "p": 1.0}], 0),
        # Draws alike and may end otherwise: never untouched.
        ([{"rule": "stop_strings", "values": ["never to be seen"]}], len(UNITS)),
    ],
)
def test_a_request_is_untouched_only_where_both_answers_are_the_same(
    tiny_llama: LoadedModel, rules: list[dict[str, Any]], touched: int
) -> None:
    variants = (
        inline("control", weight=500_000, is_control=True),
        inline("other", *rules, weight=500_000),
    )

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        await begin(core, variants=variants, metrics=METRICS)
        for unit in UNITS:
            await served(core, unit)
        report = await reported(core)
        (found,) = report.divergences
        assert (found.requests, found.equal) == (len(UNITS), len(UNITS))
        (dose,) = report.doses
        assert (dose.requests, dose.touched) == (len(UNITS), touched)

    run(tiny_llama, check)


def test_other_prompts_are_not_held_and_count_as_touched(tiny_llama: LoadedModel) -> None:
    variants = (
        inline("control", weight=500_000, is_control=True),
        inline("turns", weight=500_000, scaffold={"kind": "turns"}),
    )

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        with pytest.raises(InvalidExperiment, match="another scaffold"):
            await begin(core, variants=variants, metrics=METRICS)
        primary = METRICS[:1]
        await begin(core, variants=variants, metrics=primary, compares_draws=True)
        for unit in UNITS:
            await served(core, unit)
        report = await reported(core)
        (found,) = report.divergences
        assert (found.requests, found.unknown, found.examples) == (0, len(UNITS), ())
        assert report.doses[0].touched == len(UNITS)

    run(tiny_llama, check)


def test_nothing_is_held_that_nobody_asked_for(tiny_llama: LoadedModel) -> None:
    variants = (
        inline("control", weight=500_000, is_control=True),
        inline("cold", {"rule": "temperature", "value": 0.5}, weight=500_000),
    )

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        await begin(core, variants=variants)
        for unit in UNITS:
            await served(core, unit)
        nothing: tuple[DivergenceReport, ...] = ()
        assert (await reported(core)).divergences == nothing

    run(tiny_llama, check)
