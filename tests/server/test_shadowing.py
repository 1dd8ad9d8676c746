"""Shadow variants over a real engine: beside a run alone, and behind live requests."""

import asyncio

import pytest
from tests.server.experiments.drafts import metric
from tests.server.held import ALL, alone, begin, first_difference, inline, reported, served
from tests.server.test_core import ask, run

from bosal_server import shadowing
from bosal_server.call import Call, current_call
from bosal_server.core import GenerationCore
from bosal_server.divergence import Divergence, Divergences
from bosal_server.engine.loop import EngineLoop
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import InternalFault
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.metric import MetricRole
from bosal_server.experiments.report import ShadowReport
from bosal_server.generate_command import GenerateCommand
from bosal_server.model import LoadedModel
from bosal_server.started import Started

CONTROL = inline("control", weight=ALL, is_control=True)
PRIMARY = (metric("score", role=MetricRole.PRIMARY),)


async def at_work(core: GenerationCore, engine: EngineLoop) -> bool:
    """Wait until a shadow is on the engine; False: it is done already."""
    for number in range(20_000):
        if engine.stats().running == 1:
            return True
        if number % 50 == 49 and (await core.experiments.report("held", 0)).shadows[0].pairs:
            return False
        await asyncio.sleep(0.001)
    raise AssertionError("no shadow ever ran")


async def shadowed(core: GenerationCore, pairs: int, given_up: int = 0) -> ShadowReport:
    """Wait for so many re-runs."""
    for _ in range(1200):
        (found,) = (await core.experiments.report("held", 0)).shadows
        if (found.pairs, found.given_up) == (pairs, given_up):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"still {found}")


def test_a_shadow_answers_what_it_would_have_answered(tiny_llama: LoadedModel) -> None:
    shadow = inline("cold", {"rule": "temperature", "value": 0.3})

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        fields = {"variants": (CONTROL,), "shadows": (shadow,), "shadow_share_ppm": ALL}
        await begin(core, metrics=PRIMARY, **fields)
        places = []
        for seed in range(4):
            arm, tokens = await served(core, f"u{seed}", seed=seed)
            assert arm == "control"
            other = await alone(core, shadow, seed=seed)
            assert tokens == await alone(core, CONTROL, seed=seed)
            places.append(first_difference(tokens, other))
        found = await shadowed(core, pairs=4)
        parted = [place for place in places if place is not None]
        assert parted, "seeds at which nothing parts test nothing"
        (divergence,) = (await reported(core)).divergences
        assert divergence.is_shadow
        assert (divergence.requests, divergence.equal) == (4, 4 - len(parted))
        assert divergence.causes == {"RULE": len(parted)}
        assert divergence.rules == {"temperature": len(parted)}
        assert sorted(one.position for one in divergence.examples) == sorted(parted)
        effects = {one.outcome: one for one in found.effects}
        assert effects["output_tokens"].units == 4
        assert effects["output_tokens"].control == effects["output_tokens"].variant == 12
        assert effects["changed_share"].control == 0
        assert effects["changed_share"].variant > 0
        # Nobody was served it, and nothing is decided by it.
        report = await core.experiments.report("held", 0)
        assert [arm.variant for arm in report.arms] == ["control"]
        assert report.metrics[0].effects == ()

    run(tiny_llama, check)


def test_a_shadow_without_memory_to_explain_it_is_given_up(tiny_llama: LoadedModel) -> None:
    shadow = inline("cold", {"rule": "temperature", "value": 0.3})

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        fields = {"variants": (CONTROL,), "shadows": (shadow,), "shadow_share_ppm": ALL}
        await begin(core, metrics=PRIMARY, **fields)
        await served(core, "u0")
        await shadowed(core, pairs=0, given_up=1)

    run(tiny_llama, check, max_shadows=1)


def test_a_rule_that_changes_nothing_makes_an_equal_shadow(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        shadow = inline("same", {"rule": "top_p", "p": 1.0})
        await begin(
            core, variants=(CONTROL,), metrics=PRIMARY, shadows=(shadow,), shadow_share_ppm=ALL
        )
        await served(core, "u")
        await shadowed(core, pairs=1)
        (found,) = (await reported(core)).divergences
        assert (found.equal, found.causes, found.mean_position) == (1, {}, None)

    run(tiny_llama, check)


def test_a_shadow_with_another_prompt_parts_by_its_prompt(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        shadow = inline("turns", scaffold={"kind": "turns"})
        await begin(
            core, variants=(CONTROL,), metrics=PRIMARY, shadows=(shadow,), shadow_share_ppm=ALL
        )
        await served(core, "u")
        await shadowed(core, pairs=1)
        (found,) = (await reported(core)).divergences
        assert found.causes == {"PROMPT": 1}

    run(tiny_llama, check)


def test_a_live_request_takes_the_engine_at_once(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "_QUIET_SECONDS", 0.0)

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        shadow = inline("cold", {"rule": "temperature", "value": 0.3})
        await begin(
            core, variants=(CONTROL,), metrics=PRIMARY, shadows=(shadow,), shadow_share_ppm=ALL
        )
        await served(core, "u", max_tokens=100)
        for _ in range(2):
            if not await at_work(core, engine):
                break
            async for event in core.generate(ask("A dog", max_tokens=4, seed=1)):
                if isinstance(event, TokensEvent):
                    # Alone in its steps: the shadow left before the request's first one.
                    assert engine.stats().running <= 1
        found = await shadowed(core, pairs=1)
        assert found.given_up == 0

    run(tiny_llama, check)


def test_what_is_displaced_too_often_is_given_up_and_counted(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadowing, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(shadowing, "_MAX_ATTEMPTS", 1)

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        shadow = inline("cold", {"rule": "temperature", "value": 0.3})
        await begin(
            core, variants=(CONTROL,), metrics=PRIMARY, shadows=(shadow,), shadow_share_ppm=ALL
        )
        await served(core, "u", max_tokens=400)
        assert await at_work(core, engine)
        async for _ in core.generate(ask("A dog", max_tokens=4)):
            pass
        await shadowed(core, pairs=0, given_up=1)

    run(tiny_llama, check)


def test_what_a_shadow_logs_has_the_id_of_its_own_request(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accepted: list[tuple[str, str, Call | None]] = []

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        shadow = inline("cold", {"rule": "temperature", "value": 0.3})
        await begin(
            core, variants=(CONTROL,), metrics=PRIMARY, shadows=(shadow,), shadow_share_ppm=ALL
        )

        async def refuse(command: GenerateCommand, assignment: Assignment) -> Started:
            accepted.append((command.request_id, assignment.variant.key, current_call.get()))
            raise InternalFault

        monkeypatch.setattr(core._shadowing, "_accept", refuse)
        for unit in ("u0", "u1"):
            current_call.set(Call(f"of-{unit}"))
            await served(core, unit, request_id="", max_tokens=2)
        await shadowed(core, pairs=0, given_up=2)

    with caplog.at_level("INFO", logger=shadowing.__name__):
        run(tiny_llama, check)
    # Whichever call began the work, each is told apart from it.
    assert accepted == [("of-u0", "cold", None), ("of-u1", "cold", None)]
    own = [vars(one) for one in caplog.records if one.name == shadowing.__name__]
    assert [one["request_id"] for one in own] == ["of-u0", "of-u1"]


def test_a_run_that_fails_leaves_the_engine_before_it_is_given_up(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Divergences):
        def add(self, recipe: int, event: TokensEvent | FinishedEvent) -> list[Divergence]:
            if recipe == 1:
                raise ZeroDivisionError
            return super().add(recipe, event)

    monkeypatch.setattr(shadowing, "Divergences", Faulty)
    cancelled: list[str] = []
    before: list[list[str]] = []

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        shadow = inline("cold", {"rule": "temperature", "value": 0.3})
        await begin(
            core, variants=(CONTROL,), metrics=PRIMARY, shadows=(shadow,), shadow_share_ppm=ALL
        )
        cancel, give_up = engine.cancel, core._shadowing._give_up

        def note_cancel(request_id: str) -> None:
            cancelled.append(request_id)
            cancel(request_id)

        def note_end(job: shadowing._Job) -> None:
            before.append([*cancelled])
            give_up(job)

        monkeypatch.setattr(engine, "cancel", note_cancel)
        monkeypatch.setattr(core._shadowing, "_give_up", note_end)
        await served(core, "u", max_tokens=100)
        await shadowed(core, pairs=0, given_up=1)

    run(tiny_llama, check)
    assert before == [["shadow#0"]]


def test_a_share_of_the_requests_is_the_same_share_every_time() -> None:
    ids = [index.to_bytes(16, "big") for index in range(4000)]
    few = {one for one in ids if shadowing.is_sampled(one, 100_000)}
    more = {one for one in ids if shadowing.is_sampled(one, 300_000)}
    assert few < more
    assert 300 < len(few) < 500
    assert all(shadowing.is_sampled(one, ALL) for one in ids)
    assert not any(shadowing.is_sampled(one, 0) for one in ids)
