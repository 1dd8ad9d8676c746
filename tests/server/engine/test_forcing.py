"""Prefilled, healed and forced text in the engine, against transformers' rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.plan import Plan
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_server.engine.request import FinishReason, TokensEvent
from bosal_server.model import LoadedModel

from .bench import Answer, Bench

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]
ASKED = "The capital of Fra"
PREFILL = {"rule": "prefill", "text": "nce is the moon", "heal": False}


@pytest.fixture(scope="module")
def row(tiny_llama_folder: Path, tiny_llama: LoadedModel) -> Callable[[Sequence[int]], Any]:
    load: Any = AutoModelForCausalLM
    model = load.from_pretrained(tiny_llama_folder)

    @torch.no_grad()
    def logits(ids: Sequence[int]) -> Any:
        return model(torch.tensor([list(ids)])).logits[0, -1, : tiny_llama.vocabulary.size].clone()

    return logits


@pytest.fixture(scope="module")
def compiler() -> Iterator[ConstraintCompiler]:
    compiler = ConstraintCompiler()
    yield compiler
    compiler.close()


def ask(bench: Bench, plan: Plan, text: str = ASKED, **options: Any) -> Answer:
    prompts = plan.prompts([Message(role="user", text=text)])
    return bench.submit(plan, (), prompts=prompts, **options)


def forced(answer: Answer, choice: int = 0) -> list[int]:
    return [
        place
        for event in answer.events
        if isinstance(event, TokensEvent) and event.choice == choice
        for place in event.forced_positions
    ]


def greedy(row: Callable[[Sequence[int]], Any], ids: Sequence[int], count: int) -> list[int]:
    """The most likely tokens behind some, until the end."""
    found: list[int] = []
    while len(found) < count and (not found or found[-1]):
        found.append(int(row([*ids, *found]).argmax()))
    return found


@pytest.mark.parametrize("asked", [False, True])
def test_every_choice_starts_with_the_prefill(
    asked: bool, tiny_llama: LoadedModel, row: Any, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(PREFILL)
    bench = make_bench()
    options: dict[str, Any] = {"logprobs": 0} if asked else {}
    answer = ask(bench, plan, num_choices=2, max_tokens=24, **options)
    bench.run()
    (prompt,) = plan.prompts([Message(role="user", text=ASKED)])
    start = list(prompt.opening.token_ids)
    tail = greedy(row, [*prompt.token_ids, *start], 24 - len(start))
    assert len(start) > 3
    for choice in range(2):
        assert answer.tokens(choice) == [*start, *tail]
        assert answer.text(choice).startswith("nce is the moon")
        assert forced(answer, choice) == list(range(len(start)))
    assert answer.finished.usage.output_tokens == 2 * (len(start) + len(tail))
    if asked:
        event = next(one for one in answer.events if isinstance(one, TokensEvent))
        assert event.logprobs is not None
        wanted = float(row(prompt.token_ids).double().log_softmax(0)[start[0]])
        assert event.logprobs.raw[0] == pytest.approx(wanted, abs=1e-4)
        assert event.logprobs.controlled[0] == pytest.approx(0.0, abs=1e-6)


def test_a_prefill_goes_through_the_model_with_its_prompt(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(PREFILL)
    bench = make_bench()
    (prompt,) = plan.prompts([Message(role="user", text=ASKED)])
    answer = ask(bench, plan, max_tokens=len(prompt.opening.token_ids) + 1)
    bench.step()
    assert answer.finished.endings[0].reason in (FinishReason.MAX_TOKENS, FinishReason.STOP_TOKEN)
    (stream,) = answer.finished.usage.streams
    assert stream.forwards == len(prompt.token_ids) + len(prompt.opening.token_ids)
    assert bench.held_blocks == 0


def test_answers_that_are_over_at_once_make_room_for_those_that_wait(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    """They take every slot, and nothing of them is left to compute."""
    plan = make_plan(PREFILL)
    (prompt,) = plan.prompts([Message(role="user", text=ASKED)])
    bench = make_bench(max_groups=2)
    length = len(prompt.opening.token_ids)
    full = [ask(bench, plan, max_tokens=length, num_choices=2) for _ in range(3)]
    last = ask(bench, plan, max_tokens=length + 1)
    bench.run()
    for answer in full:
        assert answer.tokens() == list(prompt.opening.token_ids)
        assert answer.finished.endings[1].reason is FinishReason.MAX_TOKENS
    assert last.finished.endings[0].output_tokens == length + 1
    assert bench.held_blocks == 0


@pytest.mark.parametrize("end", range(2, len(ASKED)))
def test_a_healed_prompt_draws_what_goes_on_with_its_end(
    end: int, tiny_llama: LoadedModel, row: Any, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan, text = make_plan({"rule": "token_healing"}), ASKED[:end]
    bench = make_bench()
    answer = ask(bench, plan, text, max_tokens=8)
    bench.run()
    vocabulary = tiny_llama.vocabulary
    (prompt,) = plan.prompts([Message(role="user", text=text)])
    rest, ids = prompt.opening.rest, list(prompt.token_ids)
    tokens = answer.tokens()
    for place, token in enumerate(tokens):
        logits, spelled = row([*ids, *tokens[:place]]), vocabulary.bytes_of(tokens[:place])
        if len(spelled) < len(rest):
            left = rest[len(spelled) :]
            breaks = {stop - len(spelled) for stop in prompt.opening.breaks} | {len(left)}
            for other, own in enumerate(vocabulary.token_bytes):
                covers = bool(own) and own.startswith(left)
                if not covers and not (left.startswith(own) and own and len(own) in breaks):
                    logits[other] = -torch.inf
        assert token == int(logits.argmax())
    whole = vocabulary.bytes_of([*ids, *[one for one in tokens if one]])
    assert (text + answer.text()).encode() == whole.decode(errors="replace").encode()


def test_stop_and_banned_strings_see_the_answers_text_alone(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    # The end of the prompt is spelled again and is none of it.
    stop = {"rule": "stop_strings", "values": ["ra"]}
    ban = {"rule": "banned_strings", "values": ["Fra"]}
    bench = make_bench()
    answer = ask(bench, make_plan({"rule": "token_healing"}, stop, ban), max_tokens=6)
    bench.run()
    ending = answer.finished.endings[0]
    assert not ending.yielded_rules
    assert ending.reason is not FinishReason.STOP_STRING


def test_a_banned_string_takes_back_nothing_of_a_prefill(
    tiny_llama: LoadedModel, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    bench = make_bench()
    latin = {"rule": "allowed_scripts", "scripts": ["Latin"]}
    free = ask(bench, make_plan(PREFILL, latin), max_tokens=24)
    bench.run()
    (prompt,) = make_plan(PREFILL).prompts([Message(role="user", text=ASKED)])
    start = len(prompt.opening.token_ids)
    first = tiny_llama.vocabulary.bytes_of(free.tokens()[start : start + 1]).decode()
    ban = {"rule": "banned_strings", "values": [f"moon{first}"]}
    held = ask(bench, make_plan(PREFILL, latin, ban), max_tokens=24)
    bench.run()
    assert held.tokens()[:start] == free.tokens()[:start]
    assert held.tokens()[start] != free.tokens()[start]
    assert f"moon{first}" not in held.text()
    assert not held.finished.endings[0].yielded_rules


@pytest.mark.parametrize("asked", [False, True])
def test_phrases_stand_where_they_were_put(
    asked: bool, tiny_llama: LoadedModel, row: Any, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    phrases = [{"text": " the ball", "at": 3}, {"text": " Paris.", "at": "end"}]
    plan = make_plan({"rule": "forced_phrases", "phrases": phrases})
    placed, last = (list(phrase.token_ids) for phrase in plan.phrases)
    bench = make_bench()
    options: dict[str, Any] = {"logprobs": 1} if asked else {}
    answer = ask(bench, plan, max_tokens=16, **options)
    bench.run()
    tokens = answer.tokens()
    ids = list(plan.prompts([Message(role="user", text=ASKED)])[0].token_ids)
    reason = answer.finished.endings[0].reason
    body = tokens[: -len(last)] if reason is FinishReason.MAX_TOKENS else tokens[: -len(last) - 1]
    assert tokens[len(body) : len(body) + len(last)] == last
    assert len(body) >= 3
    assert body[3 : 3 + len(placed)] == placed
    drawn = [place for place in range(len(body)) if not 3 <= place < 3 + len(placed)]
    for place in drawn:
        assert body[place] == int(row([*ids, *body[:place]]).argmax())
    assert set(forced(answer)) == set(range(len(tokens))) - set(drawn)


def test_the_last_phrase_comes_before_a_drawn_end(
    tiny_llama: LoadedModel, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    end = tiny_llama.vocabulary.eos_ids
    phrase = {"rule": "forced_phrases", "phrases": [{"text": " Paris."}]}
    plan = make_plan({"rule": "logit_bias", "ids": dict.fromkeys(end, 1000)}, phrase)
    both: tuple[dict[str, Any], ...] = ({}, {"logprobs": 0})
    for options in both:
        bench = make_bench()
        answer = ask(bench, plan, max_tokens=50, **options)
        bench.run()
        assert answer.tokens() == [*plan.phrases[0].token_ids, *end]
        assert answer.text() == " Paris."
        assert answer.finished.endings[0].reason is FinishReason.STOP_TOKEN
        assert bench.held_blocks == 0


@pytest.mark.parametrize("heal", [False, True])
def test_a_constraint_holds_for_prefill_and_healed_text(
    heal: bool, tiny_llama: LoadedModel, make_bench: MakeBench, compiler: ConstraintCompiler
) -> None:
    rules: list[dict[str, Any]] = [{"rule": "temperature", "value": 0}]
    if heal:
        rules.append({"rule": "token_healing"})
    rules.append({"rule": "prefill", "text": "nce is t", "heal": heal})
    document = {
        "scaffold": {"kind": "raw"},
        "rules": rules,
        "constraint": {"regex": "nce is the [a-z]{2,9} in [a-z]{2,5}"},
    }
    recipe = Recipe.parse(document)
    plan = compile_recipe(recipe, tiny_llama.vocabulary, context_tokens=256)
    (prompt,) = plan.prompts([Message(role="user", text=ASKED)])
    assert recipe.constraint is not None
    assert bool(prompt.opening.hidden)  # "Fra" and "nce" share a token
    program = compiler.compile(recipe.constraint, plan.vocabulary, prompt.opening.hidden)
    bench = make_bench()
    plain = bench.submit(plan, (), prompts=(prompt,), program=program, max_tokens=40)
    asked = bench.submit(plan, (), prompts=(prompt,), program=program, max_tokens=40, logprobs=0)
    bench.run()
    assert plain.text().startswith("nce is the ")
    assert " in " in plain.text()[11:]
    assert asked.tokens() == plain.tokens()
    assert plain.finished.endings[0].reason in (
        FinishReason.CONSTRAINT_COMPLETE,
        FinishReason.CONSTRAINT_CLOSED,
        FinishReason.STOP_TOKEN,
    )


def test_forced_tokens_are_explained_as_no_rules_doing(
    tiny_llama: LoadedModel, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    bias = {"rule": "token_weights", "weights": {"a": 3.0}}
    plan = make_plan({**PREFILL, "heal": True}, bias)
    bench = make_bench()
    answer = ask(bench, plan, max_tokens=20, explain=Counterfactuals.of(plan))
    quiet = ask(bench, plan, max_tokens=20)
    bench.run()
    assert answer.tokens() == quiet.tokens()
    explained = [
        one
        for event in answer.events
        if isinstance(event, TokensEvent)
        for one in event.explanations or ()
    ]
    (prompt,) = plan.prompts([Message(role="user", text=ASKED)])
    for one in explained[: len(prompt.opening.token_ids)]:
        assert one is not None
        assert one.uncontrolled_token == one.token


def test_rules_that_never_yield_are_named_where_they_leave_nothing(
    tiny_llama: LoadedModel, make_bench: MakeBench, compiler: ConstraintCompiler
) -> None:
    rules = [{"rule": "allowed_tokens", "strings": ["7"], "scope": {"after": 2}}]
    document = {"scaffold": {"kind": "raw"}, "rules": rules, "constraint": {"regex": "[a-z]{9}"}}
    recipe = Recipe.parse(document)
    plan = compile_recipe(recipe, tiny_llama.vocabulary, context_tokens=256)
    assert recipe.constraint is not None
    program = compiler.compile(recipe.constraint, plan.vocabulary)
    bench = make_bench()
    single = [plan.vocabulary.ids_of(letter)[0] for letter in "abc"]
    bias = {"rule": "logit_bias", "ids": {str(token): 500 for token in single}}
    plan = compile_recipe(
        Recipe.parse({**document, "rules": [*rules, bias]}),
        tiny_llama.vocabulary,
        context_tokens=256,
    )
    answer = ask(bench, plan, program=program, max_tokens=20, seed=1)
    bench.run()
    (ending,) = answer.finished.endings
    assert ending.reason is FinishReason.RULE_CONFLICT
    assert ending.output_tokens == 2
    assert ending.conflicting_rules == ("allowed_tokens", "constraint")
    assert ending.yielded_rules == ()


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "mirostat", "tau": 1.0, "eta": 1.0},
        {"rule": "guidance", "scale": 1.5},
        {"rule": "stop_strings", "values": ["moon", "e"], "when": {"top1_below": 1.0}},
        {"rule": "no_repeat_ngram", "n": 2},
        {"rule": "contrastive", "ignore_prompt": True, "plausibility": 0.9},
    ],
    ids=lambda rule: rule["rule"],
)
def test_asking_about_forced_tokens_changes_nothing(
    rule: dict[str, Any], make_bench: MakeBench, make_plan: MakePlan
) -> None:
    """Whether a row was read for a token that was not drawn shows in nothing but what was asked."""
    phrases = [{"text": " the moon", "at": 6}, {"text": " the moon", "at": 12}]
    forced_text = {"rule": "forced_phrases", "phrases": phrases}
    plan = make_plan(PREFILL, forced_text, rule, greedy=False)
    bench = make_bench()
    ways: list[dict[str, Any]] = [{}, {"logprobs": 1}, {"explain": Counterfactuals.of(plan)}]
    answers = [ask(bench, plan, max_tokens=20, seed=3, **way) for way in ways]
    bench.run()
    plain, *asked = answers
    ending = plain.finished.endings[0]
    for answer in asked:
        assert answer.tokens() == plain.tokens()
        assert forced(answer) == forced(plain)
        assert replace(answer.finished.endings[0], explanation=None) == ending
