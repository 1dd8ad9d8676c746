"""Ends of requests: cancelled, late, faulty. Each frees what it held and touches no other."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from time import monotonic
from typing import Any

import pytest
import torch

from bosal_decoding.plan import Plan
from bosal_server.engine import stepper
from bosal_server.engine.request import (
    FinishedEvent,
    FinishReason,
    TokensEvent,
)
from bosal_server.engine.step import StepPlan
from bosal_server.errors import DeadlineExceeded, InternalFault, QueueTimeout, RequestCancelled
from bosal_server.model import LoadedModel

from .bench import Bench, MakeModel, alone, make_prompts
from .wrapped_runner import ChangedRunner

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]


PHASES = ["waiting", "behind another's prefix", "prefilling", "first token", "decoding"]


@pytest.mark.parametrize("phase", PHASES)
def test_cancelling_frees_every_block(
    phase: str, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan()
    stem, other = make_prompts(11, (90, 25))
    bench = make_bench(max_batch_tokens=32, max_groups=3)
    bystander = bench.submit(plan, other, max_tokens=40)
    bench.step()
    if phase == "waiting":
        for _ in range(2):
            bench.submit(plan, stem, max_tokens=3)
    if phase == "behind another's prefix":
        bench.submit(plan, stem, max_tokens=3)
    victim = bench.submit(plan, stem, max_tokens=30)
    num_steps = {"waiting": 1, "behind another's prefix": 2, "prefilling": 2, "first token": 4}
    for _ in range(num_steps.get(phase, 10)):
        bench.step()
    if phase in PHASES[:3]:
        assert not victim.events
    elif phase == "first token":
        assert 1 <= len(victim.tokens()) <= 2
    before = bench.held_blocks
    bench.cancel(victim)
    assert isinstance(victim.error, RequestCancelled)
    assert bench.held_blocks < before or phase == "waiting"
    bench.run()
    assert bench.held_blocks == 0
    assert bystander.tokens() == alone(make_bench, plan, other, max_tokens=40).tokens()
    repeated = bench.submit(plan, stem, max_tokens=30)
    bench.run()
    assert repeated.tokens() == alone(make_bench, plan, stem, max_tokens=30).tokens()


def test_cancelling_one_of_many_choices_ends_them_all(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    bench = make_bench(max_groups=2)
    answer = bench.submit(make_plan(greedy=False), [1, 2, 3], num_choices=5, max_tokens=9)
    for _ in range(12):
        bench.step()
    bench.cancel(answer)
    assert isinstance(answer.error, RequestCancelled)
    assert bench.held_blocks == 0
    assert not bench.stepper.has_work


def test_deadlines_end_waiting_and_running_requests(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan()
    bench = make_bench(max_groups=1)
    now = monotonic()
    running = bench.submit(plan, [1, 2], max_tokens=50, deadline=now + 10)
    waiting = bench.submit(plan, [3, 4], max_tokens=5, deadline=now + 5)
    unhurried = bench.submit(plan, [5, 6], max_tokens=5)
    bench.step()
    bench.stepper.roster.expire(now + 4)
    bench.step()
    assert not waiting.events
    assert len(running.tokens()) == 2
    bench.stepper.roster.expire(now + 6)
    bench.collect()
    assert isinstance(waiting.error, DeadlineExceeded)
    bench.stepper.roster.expire(now + 11)
    bench.run()
    assert isinstance(running.error, DeadlineExceeded)
    assert running.tokens() == alone(make_bench, plan, [1, 2], max_tokens=50).tokens()[:2]
    assert unhurried.finished.endings[0].reason is FinishReason.MAX_TOKENS
    assert bench.held_blocks == 0
    assert sorted(bench.left_queue) == ["r0", "r1", "r2"]


def test_who_could_not_have_a_first_token_in_time_waits_no_longer(
    make_bench: MakeBench, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    bench = make_bench(max_groups=1, max_queue_seconds=10.0)
    # Whoever is admitted has a first token two seconds later.
    monkeypatch.setattr(stepper, "monotonic", count(100.0, 2.0).__next__)
    running = bench.submit(plan, [1, 2], max_tokens=50, arrival=100.0)
    waiting = bench.submit(plan, [3, 4], max_tokens=5, arrival=100.0)
    bench.step()
    bench.stepper.roster.expire(107.4)
    bench.collect()
    assert not waiting.events
    bench.stepper.roster.expire(107.5)
    bench.step()
    assert isinstance(waiting.error, QueueTimeout)
    assert len(running.tokens()) == 2


def test_a_row_of_nan_fails_its_request_alone(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel, engine_model: MakeModel
) -> None:
    plan = make_plan()
    prompts = make_prompts(12, (10, 40, 33))
    is_broken = True

    def poison(step: StepPlan, logits: torch.Tensor) -> None:
        for row, place in enumerate(step.logits_rows):
            if is_broken and step.positions[place] == 44:
                logits[row] = torch.nan

    model = engine_model(tiny_llama)
    bench = make_bench({"tiny": replace(model, runner=ChangedRunner(model.runner, poison))})
    answers = [bench.submit(plan, prompt, max_tokens=8) for prompt in prompts]
    bench.run()
    assert isinstance(answers[1].error, InternalFault)
    expected = [alone(make_bench, plan, prompt, max_tokens=8).tokens() for prompt in prompts]
    assert answers[0].tokens() == expected[0]
    assert answers[2].tokens() == expected[2]
    assert answers[1].tokens() == expected[1][:5]
    assert bench.held_blocks == 0
    is_broken = False
    repeated = bench.submit(plan, prompts[1], max_tokens=8)
    bench.run()
    assert repeated.tokens() == expected[1]


def faulty(plan: Plan) -> Plan:
    """Give a plan a truncation stage that does not exist."""
    chain: Any = ((-1, 1.0, 0.0),)
    return replace(plan, params=replace(plan.params, chain=chain))


@pytest.mark.parametrize("num_choices", [1, 3])
def test_a_fault_in_one_requests_rules_fails_it_alone(
    num_choices: int,
    make_bench: MakeBench,
    make_plan: MakePlan,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = make_plan(
        {"rule": "repetition_penalty", "value": 1.3},
        {"rule": "banned_strings", "values": ["e"]},
        greedy=False,
    )
    prompts = make_prompts(20, (10, 30, 70))
    bench = make_bench(max_batch_tokens=40)
    healthy = [bench.submit(plan, prompt, seed=3, logprobs=2) for prompt in prompts[:2]]
    bench.step()
    broken = bench.submit(faulty(plan), [1, 2, 3], num_choices=num_choices)
    healthy.append(bench.submit(plan, prompts[2], seed=3, logprobs=2))
    with caplog.at_level(logging.ERROR):
        bench.run()
    assert "row by row" in caplog.text
    # A line about one request has its id as a field too.
    (told,) = {id_ for record in caplog.records if (id_ := getattr(record, "request_id", None))}
    assert str(told) in caplog.text
    assert isinstance(broken.error, InternalFault)
    for answer, prompt in zip(healthy, prompts, strict=True):
        expected = alone(make_bench, plan, prompt, seed=3, logprobs=2)
        assert answer.tokens() == expected.tokens()
        assert answer.finished.endings == expected.finished.endings
    assert bench.held_blocks == 0


def test_a_request_of_many_choices_that_cannot_start_fails_alone(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan()
    bench = make_bench()
    healthy = bench.submit(plan, [1, 2, 3])
    unknown_token = replace(plan, deltas=((10**6, 1.0),))
    broken = bench.submit(unknown_token, [1, 2, 3], num_choices=3)
    bench.run()
    assert isinstance(broken.error, InternalFault)
    assert healthy.tokens() == alone(make_bench, plan, [1, 2, 3]).tokens()
    assert sorted(bench.left_queue) == ["r0", "r1"]
    assert bench.held_blocks == 0


def test_a_fault_in_one_requests_text_fails_it_alone(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan()
    vocabulary = copy.copy(tiny_llama.vocabulary)
    vocabulary.token_bytes = (None,) * vocabulary.size  # type: ignore[assignment]
    bench = make_bench()
    healthy = bench.submit(plan, [1, 2, 3])
    broken = bench.submit(replace(plan, vocabulary=vocabulary), [1, 2, 3])
    bench.run()
    assert isinstance(broken.error, InternalFault)
    assert healthy.tokens() == alone(make_bench, plan, [1, 2, 3]).tokens()
    assert bench.held_blocks == 0


def test_events_of_a_request_come_in_order_and_end_once(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    answer = alone(make_bench, make_plan(greedy=False), [4, 5], num_choices=3, max_tokens=7)
    kinds = [type(event) for event in answer.events]
    assert kinds == [TokensEvent] * 21 + [FinishedEvent]
    timings = answer.finished.timings
    assert 0 <= timings.queue <= timings.time_to_first_token <= timings.total
    assert timings.queue + timings.prefill == pytest.approx(timings.time_to_first_token)
    assert timings.decode >= 0
