"""Scores of given answers against transformers' rows and the step contract in float64."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.decoding.oracle import Choice, controlled
from tests.decoding.test_explaining_pipeline import log_softmax

from bosal_decoding.plan import Plan
from bosal_server.engine.request import FinishReason, TokenLogprobs, TokensEvent
from bosal_server.model import LoadedModel

from .bench import Answer, Bench
from .test_explained_requests import rows_of

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]

RULES: tuple[dict[str, Any], ...] = (
    {"rule": "repetition_penalty", "value": 1.3},
    {"rule": "used_token_weight", "weight": -1.5},
    {"rule": "eos_ramp", "weight": 6.0, "over": 40},
    {"rule": "no_repeat_ngram", "n": 3},
    {"rule": "temperature", "value": 0.6},
    {"rule": "top_k", "k": 3},
)
PROMPT = [50, 61, 72, 83, 91]


def logprobs(answer: Answer) -> TokenLogprobs:
    joined = TokenLogprobs()
    for event in answer.events:
        if isinstance(event, TokensEvent):
            assert event.text == ""
            assert event.logprobs is not None
            joined.raw += event.logprobs.raw
            joined.raw_rank += event.logprobs.raw_rank
            joined.controlled += event.logprobs.controlled
            joined.controlled_rank += event.logprobs.controlled_rank
    return joined


@pytest.mark.parametrize("length", [1, 2, 64, 65, 150])
def test_scores_are_transformers_rows_under_the_rules_position_by_position(
    length: int,
    tiny_llama: LoadedModel,
    tiny_llama_folder: Any,
    make_bench: MakeBench,
    make_plan: MakePlan,
) -> None:
    chance = random.Random(length)
    # Of few tokens, so that they repeat; the last ends the text.
    given = [chance.randrange(100, 108) for _ in range(length - 1)] + [0]
    bench = make_bench()
    neighbour = bench.submit(make_plan(), PROMPT[:3], max_tokens=20)
    plan = make_plan(*RULES, greedy=False)
    answer = bench.submit(plan, PROMPT, max_tokens=length, continuation=tuple(given), logprobs=0)
    bench.run()
    assert answer.tokens() == given
    ending = answer.finished.endings[0]
    assert (ending.reason, ending.output_tokens) == (FinishReason.MAX_TOKENS, length)
    found = logprobs(answer)
    rows = rows_of(tiny_llama_folder, PROMPT, given).numpy()
    choice = Choice({"rules": list(RULES)}, tiny_llama.vocabulary.token_bytes, [0])
    choice.instruction = PROMPT
    masked = 0
    for place, token in enumerate(given):
        row = rows[place]
        shaped = controlled(row, choice)
        assert found.raw[place] == pytest.approx(log_softmax(row)[token], abs=1e-3)
        expected = log_softmax(shaped / 0.6)[token]
        assert found.controlled[place] == pytest.approx(expected, abs=5e-3)
        masked += expected == -math.inf
        choice.output.append(token)
    assert masked > 0 or length < 64
    assert len(neighbour.tokens()) == 20
    assert bench.held_blocks == 0


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        ({"rule": "guidance", "scale": 2.5}, {"rule": "presence_penalty", "value": 1.0}),
    ],
)
def test_a_drawn_answer_scores_as_its_draws_reported(
    rules: tuple[dict[str, Any], ...], make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(*rules, greedy=False)
    bench = make_bench()
    prompts: dict[str, Any] = {}
    if plan.num_streams > 1:
        from .bench import make_prompt

        prompts["prompts"] = (make_prompt(PROMPT), make_prompt(PROMPT[-1:]))
    drawn = bench.submit(plan, PROMPT, max_tokens=80, logprobs=0, seed=3, **prompts)
    bench.run()
    reported = TokenLogprobs()
    for event in drawn.events:
        if isinstance(event, TokensEvent):
            assert event.logprobs is not None
            reported.raw += event.logprobs.raw
            reported.controlled += event.logprobs.controlled
    given = tuple(drawn.tokens())
    scored = bench.submit(
        plan, PROMPT, max_tokens=len(given), continuation=given, logprobs=0, **prompts
    )
    bench.run()
    found = logprobs(scored)
    assert found.raw == pytest.approx(reported.raw, abs=1e-3)
    assert found.controlled == pytest.approx(reported.controlled, abs=5e-3)


def test_a_cancelled_score_frees_its_place(make_bench: MakeBench, make_plan: MakePlan) -> None:
    bench = make_bench()
    given = tuple(range(100, 300))
    answer = bench.submit(
        make_plan(), PROMPT, max_tokens=len(given), continuation=given, logprobs=0
    )
    bench.step()
    bench.step()
    bench.cancel(answer)
    assert answer.error.code == "CANCELLED"
    assert bench.held_blocks == 0
