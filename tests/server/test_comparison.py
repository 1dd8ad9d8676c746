"""Comparisons over a real engine: coupled draws, shared prompts, and why outputs part."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from tests.server.test_core import ask, run, running

from bosal_decoding.errors import DecodingError
from bosal_server.comparison import (
    CompareCommand,
    ComparedRecipe,
    RecipeEvent,
    compare,
)
from bosal_server.core import GenerationCore
from bosal_server.divergence import Divergence, DivergenceCause
from bosal_server.engine.loop import EngineLoop
from bosal_server.engine.request import FinishedEvent, TokensEvent
from bosal_server.errors import ExplanationTooLarge, ServerError
from bosal_server.model import LoadedModel
from bosal_server.request_errors import OutOfRange
from bosal_server.security.caller import Caller, Priority
from bosal_server.started import Started

ENDLESS = {"rule": "logit_bias", "ids": {"0": -1000}}


def command(*rules: list[dict[str, Any]], **options: Any) -> CompareCommand:
    recipes = [ComparedRecipe(recipe={"rules": [ENDLESS, *one]}) for one in rules]
    shared = ask("The cat sat", **({"seed": 3, "max_tokens": 16} | options))
    return CompareCommand(shared=shared, recipes=recipes)


class Compared:
    """All that a comparison gave."""

    def __init__(self, events: list[RecipeEvent | Divergence], num_recipes: int) -> None:
        self.events = events
        self.divergences = {
            event.recipe: event for event in events if isinstance(event, Divergence)
        }
        self.tokens: list[list[int]] = [[] for _ in range(num_recipes)]
        for event in events:
            if isinstance(event, RecipeEvent) and isinstance(event.event, TokensEvent):
                assert event.event.first_position == len(self.tokens[event.recipe])
                self.tokens[event.recipe] += event.event.token_ids


def compared(loaded: LoadedModel, asked: CompareCommand) -> Compared:
    async def check() -> Compared:
        async with running(loaded) as (core, _):
            events = [event async for event in compare(core, asked)]
        return Compared(events, len(asked.recipes))

    return asyncio.run(check())


def first_difference(one: list[int], other: list[int]) -> int:
    return next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def test_recipes_are_started_in_order_and_each_ends(tiny_llama: LoadedModel) -> None:
    found = compared(tiny_llama, command([], [{"rule": "top_k", "k": 5}], []))
    kinds = [
        (event.recipe, type(event.event))
        for event in found.events
        if isinstance(event, RecipeEvent)
    ]
    assert kinds[:3] == [(0, Started), (1, Started), (2, Started)]
    assert sorted(place for place, kind in kinds if kind is FinishedEvent) == [0, 1, 2]
    seeds = {
        event.event.seed
        for event in found.events
        if isinstance(event, RecipeEvent) and isinstance(event.event, Started)
    }
    assert seeds == {3}
    assert all(
        event.event.explanations is None
        for event in found.events
        if isinstance(event, RecipeEvent) and isinstance(event.event, TokensEvent)
    )
    assert set(found.divergences) == {1, 2}
    # The same recipe under the same noise is the same text.
    assert found.tokens[2] == found.tokens[0]
    assert found.divergences[2] == Divergence(recipe=2)


@pytest.mark.parametrize(
    ("first", "other", "rule"),
    [
        ([], [{"rule": "top_k", "k": 1}], "top_k"),
        ([{"rule": "temperature", "value": 0.3}], [], "temperature"),
        (
            [{"rule": "temperature", "value": 0}],
            [{"rule": "temperature", "value": 0}, {"rule": "presence_penalty", "value": 9}],
            "presence_penalty",
        ),
        (
            [{"rule": "temperature", "value": 0}, {"rule": "no_repeat_ngram", "n": 2}],
            [{"rule": "temperature", "value": 0}],
            "no_repeat_ngram",
        ),
    ],
)
def test_a_divergence_names_the_rule_that_made_it(
    first: list[dict[str, Any]], other: list[dict[str, Any]], rule: str, tiny_llama: LoadedModel
) -> None:
    found = compared(tiny_llama, command(first, other, max_tokens=60))
    divergence = found.divergences[1]
    position = first_difference(*found.tokens)
    assert divergence == Divergence(
        recipe=1,
        position=position,
        first_token=found.tokens[0][position],
        token=found.tokens[1][position],
        cause=DivergenceCause.RULE,
        rules=(rule,),
    )


def test_a_rule_that_both_have_with_other_parameters_is_named(tiny_llama: LoadedModel) -> None:
    alone = compared(tiny_llama, command([], []))
    token = str(alone.tokens[0][0])
    both = [
        {"rule": "logit_bias", "ids": {token: -50, "0": -1000}},
        {"rule": "token_weights", "weights": {"zzz": 1.0}, "if_missing": "skip"},
    ]
    asked = command([], [])
    recipes = [asked.recipes[0], ComparedRecipe(recipe={"rules": both})]
    divergence = compared(tiny_llama, replace(asked, recipes=recipes)).divergences[1]
    assert (divergence.position, divergence.cause) == (0, DivergenceCause.RULE)
    assert divergence.rules == ("logit_bias",)


def test_a_banned_string_is_named_though_the_first_recipe_never_met_the_ban(
    tiny_llama: LoadedModel,
) -> None:
    text = "".join(
        event.event.text
        for event in compared(tiny_llama, command([], [])).events
        if isinstance(event, RecipeEvent)
        and event.recipe == 0
        and isinstance(event.event, TokensEvent)
    )
    part = text[5:8]
    found = compared(tiny_llama, command([], [{"rule": "banned_strings", "values": [part]}]))
    divergence = found.divergences[1]
    assert divergence.cause is DivergenceCause.RULE
    assert divergence.rules == ("banned_strings",)


def test_other_prompts_and_other_endings_are_told_from_rules(tiny_llama: LoadedModel) -> None:
    asked = command([], [], [], [])
    documents: list[dict[str, Any]] = [
        {"rules": [ENDLESS]},
        {"rules": [ENDLESS], "scaffold": {"kind": "turns"}},
        {"rules": [ENDLESS, {"rule": "max_tokens", "value": 5}]},
        {"rules": [ENDLESS]},
    ]
    recipes = [ComparedRecipe(recipe=document) for document in documents]
    shared = replace(asked.shared, max_tokens=None)
    recipes[0] = ComparedRecipe(
        recipe=documents[0], overrides=[{"rule": "max_tokens", "value": 16}]
    )
    recipes[3] = recipes[0]
    found = compared(tiny_llama, CompareCommand(shared=shared, recipes=recipes))
    assert found.divergences[1].cause is DivergenceCause.PROMPT
    assert found.divergences[2] == Divergence(
        recipe=2,
        position=5,
        first_token=found.tokens[0][5],
        token=None,
        cause=DivergenceCause.ENDING,
    )
    assert found.divergences[3] == Divergence(recipe=3)


def test_rows_that_differ_by_themselves_are_called_numerics(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bosal_server.engine.torch_runner import TorchRunner

    forward = TorchRunner.forward
    calls = 0

    def noisy(self: TorchRunner, plan: Any) -> Any:
        """The second row of a batch is another one from the fifth step on."""
        nonlocal calls
        calls += 1
        logits = forward(self, plan)
        if calls > 5 and len(logits) > 1:
            logits[1] = logits[1].flip(0)
        return logits

    monkeypatch.setattr(TorchRunner, "forward", noisy)
    found = compared(tiny_llama, command([], [{"rule": "top_p", "p": 1.0}]))
    assert found.divergences[1].cause is DivergenceCause.NUMERICS
    assert found.divergences[1].rules == ()


def test_a_shared_prompt_is_computed_once(tiny_llama: LoadedModel) -> None:
    asked = command([], [{"rule": "top_k", "k": 3}], [{"rule": "top_k", "k": 2}])
    words = " ".join(["The cat sat on the mat and looked at the moon."] * 12)
    prompt = replace(asked.shared.prompt, instruction=words)
    asked = replace(asked, shared=replace(asked.shared, prompt=prompt))
    found = compared(tiny_llama, asked)
    cached = {
        event.recipe: event.event.usage.cached_prompt_tokens
        for event in found.events
        if isinstance(event, RecipeEvent) and isinstance(event.event, FinishedEvent)
    }
    prompt_tokens = next(
        event.event.usage.prompt_tokens
        for event in found.events
        if isinstance(event, RecipeEvent) and isinstance(event.event, FinishedEvent)
    )
    assert prompt_tokens > 100
    assert cached[0] == 0
    assert cached[1] == cached[2] == (prompt_tokens - 1) // 32 * 32


def test_closing_early_frees_everything(tiny_llama: LoadedModel) -> None:
    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        async with aclosing(compare(core, command([], [], max_tokens=400))) as events:
            async for event in events:
                if isinstance(event, RecipeEvent) and isinstance(event.event, TokensEvent):
                    break
        for _ in range(200):
            if engine.stats().running == 0:
                break
            await asyncio.sleep(0.02)
        assert engine.stats().running == 0
        assert engine.stats().blocks["tiny"].used == 0

    run(tiny_llama, check)


def test_wrong_recipes_are_named_before_any_work(tiny_llama: LoadedModel) -> None:
    async def refused(core: GenerationCore, asked: CompareCommand) -> str | None:
        events = compare(core, asked)
        with pytest.raises((ServerError, DecodingError)) as error:
            await anext(events)
        assert isinstance(error.value, ServerError | DecodingError)
        return error.value.field

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        good = command([], [])
        bad = ComparedRecipe(recipe={"rules": [{"rule": "top_q"}]})
        field = await refused(core, replace(good, recipes=[good.recipes[0], bad]))
        assert field == "recipes[1].inline_recipe.rules[0].rule"
        wrong = replace(good.shared, max_tokens=0)
        assert await refused(core, replace(good, shared=wrong)) == "spec.max_tokens"
        caller = Caller(max_priority=Priority.LOW)
        wrong = replace(good.shared, priority=Priority.HIGH, caller=caller)
        assert await refused(core, replace(good, shared=wrong)) == "spec.priority"
        for count in (0, 1, 9):
            recipes = [good.recipes[0]] * count
            with pytest.raises(OutOfRange):
                await anext(compare(core, replace(good, recipes=recipes)))
        assert engine.stats().num_steps == 0

    run(tiny_llama, check)


@pytest.mark.parametrize("most", [1, 3])
def test_recipes_with_too_much_to_hold_against_each_other_are_named(
    tiny_llama: LoadedModel, most: int
) -> None:
    """By itself each has two or three plans; beside each other the first has more."""

    async def check(core: GenerationCore, engine: EngineLoop) -> None:
        asked = command([], [{"rule": "top_k", "k": 5}])
        with pytest.raises(ExplanationTooLarge) as refused:
            await anext(compare(core, asked))
        assert refused.value.field == "recipes[0]"
        assert engine.stats().num_steps == 0

    run(tiny_llama, check, max_shadows=most)
