"""Explanations through the engine: against transformers' own rows, over rollbacks and batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.decoding.oracle import Choice
from tests.decoding.test_explaining_pipeline import check
from transformers import AutoModelForCausalLM

from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.explanation import Explanation
from bosal_decoding.plan import Plan
from bosal_server.engine.request import TokensEvent
from bosal_server.errors import ExplanationTooLarge
from bosal_server.model import LoadedModel

from .bench import Answer, Bench, MakeModel
from .desk import Desk

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]

RULES: tuple[dict[str, Any], ...] = (
    {"rule": "presence_penalty", "value": 1.5},
    {"rule": "token_weights", "weights": {"a": -4.0, " the": 3.0}, "if_missing": "skip"},
    {"rule": "min_tokens", "value": 4},
    {"rule": "temperature", "value": 0.6},
    {"rule": "top_k", "k": 30},
)
PROMPT = [50, 61, 72, 83]


def explanations(answer: Answer, choice: int = 0) -> list[Explanation]:
    found: list[Explanation] = []
    for event in answer.events:
        if isinstance(event, TokensEvent) and event.choice == choice:
            assert event.explanations is not None
            assert len(event.explanations) == len(event.token_ids)
            found += [one for one in event.explanations if one is not None]
    assert [one.token for one in found] == answer.tokens(choice)
    return found


@torch.inference_mode()
def rows_of(folder: Any, prompt: list[int], output: list[int]) -> torch.Tensor:
    """Transformers' rows for every output position, in float64."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    logits: torch.Tensor = model(input_ids=torch.tensor([prompt + output])).logits[0]
    return logits[len(prompt) - 1 : -1]


def test_every_token_is_explained_as_transformers_rows_say(
    tiny_llama: LoadedModel, tiny_llama_folder: Any, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(*RULES, greedy=False)
    bench = make_bench()
    answer = bench.submit(
        plan, PROMPT, max_tokens=12, seed=4, num_choices=2, explain=Counterfactuals.of(plan)
    )
    # Neighbours that are not explained share the steps.
    others = [bench.submit(plan, PROMPT[:n], max_tokens=9, seed=n) for n in (1, 3)]
    bench.run()
    for index in range(2):
        found = explanations(answer, index)
        rows = rows_of(tiny_llama_folder, PROMPT, answer.tokens(index))
        choice = Choice(
            {"rules": list(RULES)},
            tiny_llama.vocabulary.token_bytes,
            [0],
            seed=4,
            choice=index,
            instruction=PROMPT,
        )
        for one, row in zip(found, rows, strict=True):
            check(one, row, choice)
            choice.output.append(one.token)
        summary = answer.finished.endings[index].explanation
        assert summary is not None
        assert summary.num_tokens == len(found)
        assert summary.num_changed == sum(not one.is_unchanged for one in found)
        assert 0 < summary.num_changed < len(found)
    for other in others:
        assert all(
            event.explanations is None for event in other.events if isinstance(event, TokensEvent)
        )
        assert other.finished.endings[0].explanation is None


def test_being_explained_changes_no_token(make_bench: MakeBench, make_plan: MakePlan) -> None:
    plan = make_plan(*RULES, greedy=False)
    bench = make_bench()
    plain = bench.submit(plan, PROMPT, max_tokens=20, seed=9)
    explained = bench.submit(plan, PROMPT, max_tokens=20, seed=9, explain=Counterfactuals.of(plan))
    bench.run()
    assert explained.tokens() == plain.tokens()


@pytest.mark.parametrize("greedy", [True, False])
def test_explanations_survive_rollbacks_and_held_text(
    greedy: bool, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    free = make_plan(greedy=greedy)
    bench = make_bench()
    text = bench.submit(free, PROMPT, max_tokens=30, seed=2)
    bench.run()
    banned = [part for part in (text.text()[4:7], text.text()[9:11]) if part.strip()]
    plan = make_plan(
        {"rule": "banned_strings", "values": banned},
        {"rule": "stop_strings", "values": ["zzzz never", "e never"]},
        greedy=greedy,
    )
    answer = bench.submit(plan, PROMPT, max_tokens=30, seed=2, explain=Counterfactuals.of(plan))
    bench.run()
    found = explanations(answer)
    assert len(found) == answer.finished.endings[0].output_tokens
    masked = [effect for one in found for effect in one.effects if effect.rule == "banned_strings"]
    assert masked
    assert all(effect.masked_tokens >= 1 for effect in masked)


def test_a_row_that_cannot_be_explained_fails_its_own_request(
    make_bench: MakeBench, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bosal_decoding.explainer import Explainer

    plan = make_plan(*RULES, greedy=False)
    bench = make_bench()
    neighbour = bench.submit(plan, PROMPT, max_tokens=6, seed=1)
    victim = bench.submit(plan, PROMPT, max_tokens=6, seed=1, explain=Counterfactuals.of(plan))

    def broken(self: Explainer, *_: object) -> list[Explanation]:
        raise RuntimeError("no explanation")

    monkeypatch.setattr(Explainer, "explain", broken)
    bench.run()
    assert victim.error.code == "INTERNAL"
    assert len(neighbour.tokens()) == 6
    assert bench.held_blocks == 0


def reasons(answer: Answer, choice: int) -> list[object]:
    """What explanations say beside numbers, which vary a little with the batch."""
    return [
        (one.uncontrolled_token, [effect.rule for effect in one.effects])
        for one in explanations(answer, choice)
    ]


def test_choices_wait_for_room_for_their_shadows(
    tiny_llama: LoadedModel, engine_model: MakeModel, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(*RULES, greedy=False)
    counterfactuals = Counterfactuals.of(plan)
    alone = make_bench()
    expected = alone.submit(plan, PROMPT, max_tokens=8, num_choices=5, explain=counterfactuals)
    alone.run()
    most = 2 * counterfactuals.num_plans + 1
    model = replace(engine_model(tiny_llama), max_shadows=most)
    bench = make_bench({"tiny": model})
    answer = bench.submit(plan, PROMPT, max_tokens=8, num_choices=5, explain=counterfactuals)
    shadows = bench.stepper._pipelines["tiny"]._shadows
    others = [bench.submit(plan, PROMPT, max_tokens=3, seed=seed) for seed in range(2)]
    at_once = []
    while bench.stepper.has_work:
        bench.step()
        at_once.append(len(shadows._explained))
        assert shadows._capacity <= most
    assert max(at_once) == 2
    for choice in range(5):
        assert answer.tokens(choice) == expected.tokens(choice)
        assert reasons(answer, choice) == reasons(expected, choice)
    assert all(other.is_over for other in others)
    # Whoever is cancelled gives its room back.
    cancelled = bench.submit(plan, PROMPT, max_tokens=8, num_choices=5, explain=counterfactuals)
    bench.step()
    bench.cancel(cancelled)
    again = bench.submit(plan, PROMPT, max_tokens=8, num_choices=5, explain=counterfactuals)
    bench.run()
    assert again.tokens(4) == expected.tokens(4)


def test_a_choice_that_never_had_room_for_its_shadows_is_refused_at_once(
    tiny_llama: LoadedModel, engine_model: MakeModel, make_plan: MakePlan
) -> None:
    plan = make_plan(*RULES, greedy=False)
    counterfactuals = Counterfactuals.of(plan)
    model = replace(engine_model(tiny_llama), max_shadows=counterfactuals.num_plans - 1)
    desk = Desk(model, plan)
    with pytest.raises(ExplanationTooLarge) as refused:
        desk.submit("r", PROMPT, explain=counterfactuals)
    assert refused.value.field == "explain"
