"""The core without a transport, over a real engine in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest
from tests.server.experiments.managers import idle_manager

from bosal_decoding.errors import DecodingError
from bosal_server.core import GenerationCore
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import DeadlineExceeded, ExplanationTooLarge, QueueFull, ServerError
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.limits import Limits
from bosal_server.mailbox import Delivery
from bosal_server.metrics import Metrics
from bosal_server.model import LoadedModel
from bosal_server.recipe_store import RecipeStore
from bosal_server.request_errors import OutOfRange
from bosal_server.served_models import ServedModel
from bosal_server.started import Started

ENDLESS: dict[str, Any] = {"rules": [{"rule": "logit_bias", "ids": {"0": -1000}}]}


@asynccontextmanager
async def running(
    loaded: LoadedModel,
    explain_share: float = 0.0,
    recipes: RecipeStore | None = None,
    max_shadows: int | None = None,
    **limits: int,
) -> AsyncIterator[tuple[GenerationCore, EngineLoop]]:
    metrics = Metrics()
    recipes = recipes or RecipeStore.load()
    stack = ExitStack()
    experiments = stack.enter_context(idle_manager(recipes))
    runner = loaded.runner(cache_tokens=4096)
    model = EngineModel(
        runner=runner,
        vocabulary=loaded.vocabulary,
        context_tokens=loaded.context_tokens,
        digest=loaded.digest,
        max_shadows=max_shadows,
    )
    deliver = Delivery(asyncio.get_running_loop())
    engine = EngineLoop({"tiny": model}, EngineConfig(switch_interval=None), deliver, metrics)
    served = ServedModel(
        name="tiny",
        digest=loaded.digest,
        architecture=loaded.architecture,
        num_parameters=loaded.num_parameters,
        vocabulary=loaded.vocabulary,
        context_tokens=loaded.context_tokens,
        runner=runner.kind,
        runner_reason="asked for",
        dtype=runner.dtype,
        device=runner.device,
        cache_tokens=4096,
        max_shadows=max_shadows,
    )
    core = GenerationCore(
        models=[served],
        recipes=recipes,
        default_recipe="plain",
        limits=Limits(max_top_logprobs=300, **limits),
        engine=engine,
        metrics=metrics,
        versions={},
        experiments=experiments,
        explain_share=explain_share,
    )
    engine.start()
    await experiments.start()
    try:
        yield core, engine
    finally:
        await asyncio.to_thread(engine.stop)
        core.close()
        await experiments.close()
        stack.close()


def run(
    loaded: LoadedModel,
    check: Callable[[GenerationCore, EngineLoop], Awaitable[None]],
    **limits: int,
) -> None:
    async def checked() -> None:
        async with running(loaded, 0.0, None, **limits) as (core, engine):
            await check(core, engine)

    asyncio.run(checked())


def ask(text: str = "The cat sat", **options: Any) -> GenerateCommand:
    recipe = options.pop("recipe", ENDLESS)
    return GenerateCommand(prompt=PromptCommand(recipe=recipe, instruction=text), **options)


def test_events_come_in_order_and_tokens_without_a_gap(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        events = [event async for event in core.generate(ask(max_tokens=20, num_choices=2))]
        started, *tokens, finished = events
        assert isinstance(started, Started)
        assert isinstance(finished, FinishedEvent)
        assert started.recipe_name == "inline"
        for choice in range(2):
            position = 0
            for event in tokens:
                assert isinstance(event, TokensEvent)
                if event.choice == choice:
                    assert event.first_position == position
                    position += len(event.token_ids)
            assert position == 20

    run(tiny_llama, check)


def test_sampled_explanations_feed_the_metrics_and_stay_inside(tiny_llama: LoadedModel) -> None:
    async def check() -> None:
        async with running(tiny_llama, explain_share=1.0) as (core, _):
            events = [event async for event in core.generate(ask(max_tokens=9, seed=1))]
            asked = [
                event async for event in core.generate(ask(max_tokens=9, seed=1, explain=True))
            ]
            registry = core._metrics.registry
        for event in events:
            if isinstance(event, TokensEvent):
                assert event.explanations is None
        finished, explained = events[-1], asked[-1]
        assert isinstance(finished, FinishedEvent)
        assert isinstance(explained, FinishedEvent)
        assert finished.endings[0].explanation is None
        summary = explained.endings[0].explanation
        assert summary is not None
        counted = sum(
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "bosal_explained_tokens_total"
        )
        assert counted == 2 * summary.num_tokens == 18

    asyncio.run(check())


def test_only_who_asks_is_refused_for_want_of_memory_to_explain(tiny_llama: LoadedModel) -> None:
    rules = [*ENDLESS["rules"], {"rule": "top_k", "k": 5}, {"rule": "temperature", "value": 0.5}]

    async def check() -> None:
        # Bare, and without each of three rules.
        async with running(tiny_llama, 1.0, None, 3) as (core, engine):
            command = ask(max_tokens=5, seed=1, recipe={"rules": rules}, explain=True)
            with pytest.raises(ExplanationTooLarge) as refused:
                await anext(core.generate(command))
            assert (refused.value.field, refused.value.code) == ("explain", "INVALID_ARGUMENT")
            assert refused.value.metadata == {"plans": "4", "limit": "3"}
            assert engine.stats().num_steps == 0
            plain = [event async for event in core.generate(replace(command, explain=False))]
            few = replace(command, prompt=ask().prompt)
            explained = [event async for event in core.generate(few)]
        for events, is_explained in ((plain, False), (explained, True)):
            finished = events[-1]
            assert isinstance(finished, FinishedEvent)
            assert (finished.endings[0].explanation is not None) == is_explained

    asyncio.run(check())


def test_a_reader_that_lags_gets_joined_tokens(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        sizes = []
        async with aclosing(core.generate(ask(max_tokens=60))) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    sizes.append(len(event.token_ids))
                await _until(lambda: engine.stats().num_steps >= 60)
        assert sum(sizes) == 60
        assert len(sizes) <= 2

    run(tiny_llama, check)


def test_closing_early_frees_everything(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        async with aclosing(core.generate(ask(max_tokens=400, num_choices=3))) as events:
            async for event in events:
                if isinstance(event, TokensEvent):
                    break
        await _until(lambda: engine.stats().running == 0)
        assert engine.stats().blocks["tiny"].used == 0

    run(tiny_llama, check)


def test_a_deadline_ends_a_request(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        command = ask(max_tokens=400, num_choices=16, deadline=monotonic() + 0.1)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(_drain(core, command), 60)
        assert engine.stats().running == 0

    run(tiny_llama, check)


@pytest.mark.parametrize(
    ("command", "reason", "field"),
    [
        (ask(""), "MISSING_FIELD", "instruction"),
        (ask(num_choices=0), "OUT_OF_RANGE", "num_choices"),
        (ask(logprobs=301), "OUT_OF_RANGE", "logprobs.top"),
        (ask(num_choices=16, max_tokens=300, logprobs=300), "RESPONSE_TOO_LARGE", "logprobs.top"),
        (ask(max_tokens=511), "CONTEXT_OVERFLOW", "max_tokens"),
        (ask("word " * 600), "CONTEXT_OVERFLOW", "instruction"),
        (ask(model="other"), "UNKNOWN_MODEL", "model"),
        (ask(recipe="other"), "UNKNOWN_RECIPE", "recipe"),
        (ask(recipe={"rules": [{"rule": "top_k", "k": -1}]}), "INVALID_RECIPE",
         "inline_recipe.rules[0].k"),
        (ask(request_id="\x00"), "INVALID_REQUEST_ID", "request_id"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_any_work(
    tiny_llama: LoadedModel, command: GenerateCommand, reason: str, field: str
) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        with pytest.raises((ServerError, DecodingError)) as failure:
            await _drain(core, command)
        assert isinstance(failure.value, ServerError | DecodingError)
        assert (failure.value.reason, failure.value.field) == (reason, field)
        assert engine.stats().num_steps == 0

    run(tiny_llama, check)


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"num_choices": 0}, "num_choices"),
        ({"logprobs": 1000}, "logprobs.top"),
    ],
)
def test_a_number_out_of_range_is_refused_before_a_thread_is_asked(
    tiny_llama: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    command: dict[str, Any],
    field: str,
) -> None:
    async def accept() -> None:
        async with running(tiny_llama) as (core, _):
            with monkeypatch.context() as patched:
                patched.setattr(core._preparation, "run", None)
                with pytest.raises(OutOfRange) as refused:
                    await core.accept(ask(**command))
            assert refused.value.field == field

    asyncio.run(accept())


def test_a_flood_is_refused_before_its_texts_pile_up(
    tiny_llama: LoadedModel,
) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        calls = [_drain(core, ask(max_tokens=2)) for _ in range(8)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, QueueFull)]
        assert len(refused) == 5
        assert all(error.retry_after > 0 for error in refused)
        assert sum(isinstance(answer, list) for answer in answers) == 3
        assert len(await _drain(core, ask(max_tokens=2))) == 2

    run(tiny_llama, check, max_preparing=3)


def test_one_request_id_may_run_twice(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        command = ask(max_tokens=10, seed=1, request_id="same")
        first, second = await asyncio.gather(_drain(core, command), _drain(core, command))
        assert first == second

    run(tiny_llama, check)


async def _drain(core: GenerationCore, command: GenerateCommand) -> list[int]:
    """Generate to the end; return the tokens."""
    return [
        token
        async for event in core.generate(command)
        if isinstance(event, TokensEvent)
        for token in event.token_ids
    ]


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")
