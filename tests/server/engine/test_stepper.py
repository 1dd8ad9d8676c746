import copy
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import torch

from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.request import (
    EngineRequest,
    FailedEvent,
    FinishedEvent,
    FinishReason,
    TokensEvent,
)
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import StepPlan
from bosal_server.errors import DeadlineExceeded, InternalFault, RequestCancelled
from bosal_server.model import LoadedModel, load_model

from .conftest import Answer, Bench, engine_model

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]


def make_prompts(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(1, 400) for _ in range(length)] for length in lengths]


def alone(make_bench: MakeBench, plan: Plan, prompt: list[int], **options: Any) -> Answer:
    bench = make_bench()
    answer = bench.submit(plan, prompt, **options)
    bench.run()
    return answer


class WrappedRunner:
    """A runner whose forward pass a test changes."""

    def __init__(
        self, runner: ModelRunner, change: Callable[[StepPlan, torch.Tensor], None]
    ) -> None:
        self._runner = runner
        self._change = change
        self.kind = runner.kind
        self.dtype = runner.dtype
        self.device = runner.device
        self.vocab_size = runner.vocab_size
        self.block_size = runner.block_size
        self.num_blocks = runner.num_blocks

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = self._runner.forward(plan)
        self._change(plan, logits)
        return logits

    def close(self) -> None:
        self._runner.close()


# Exactness


@pytest.mark.parametrize("max_batch_tokens", [1, 7, 32, 45, 512])
def test_packed_equals_alone(
    max_batch_tokens: int, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan()
    prompts = make_prompts(1, (1, 5, 31, 32, 33, 64, 100, 17))
    expected = [alone(make_bench, plan, prompt, max_tokens=15).tokens() for prompt in prompts]
    bench = make_bench(max_batch_tokens=max_batch_tokens, max_groups=5)
    answers = []
    for prompt in prompts:
        answers.append(bench.submit(plan, prompt, max_tokens=15))
        bench.step()
        bench.step()
    bench.run()
    assert [answer.tokens() for answer in answers] == expected
    assert bench.held_blocks == 0


@pytest.mark.parametrize("greedy", [True, False])
def test_a_cached_prefix_changes_nothing(
    greedy: bool, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(greedy=greedy)
    stem, *tails = make_prompts(2, (150, 3, 40, 1))
    bench = make_bench()
    for tail in tails:
        cold = alone(make_bench, plan, stem + tail, seed=5)
        warm = bench.submit(plan, stem + tail, seed=5)
        bench.run()
        assert warm.tokens() == cold.tokens()
        assert warm.text() == cold.text()
    assert warm.finished.usage.cached_prompt_tokens == 128
    assert warm.finished.usage.prompt_tokens == 151


def test_a_conversation_goes_on_from_its_own_answer(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan()
    (prompt,) = make_prompts(3, (40,))
    bench = make_bench()
    first = bench.submit(plan, prompt, max_tokens=60)
    bench.run()
    longer = [*prompt, *first.tokens(), 7, 8, 9]
    second = bench.submit(plan, longer)
    bench.run()
    assert second.finished.usage.cached_prompt_tokens == 96
    assert second.tokens() == alone(make_bench, plan, longer).tokens()


def test_equal_prompts_arriving_together_are_computed_once(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(greedy=False)
    (prompt,) = make_prompts(4, (100,))
    bench = make_bench(max_batch_tokens=40)
    answers = [bench.submit(plan, prompt, seed=seed) for seed in range(4)]
    bench.run()
    cached = [answer.finished.usage.cached_prompt_tokens for answer in answers]
    assert cached == [0, 96, 96, 96]
    for seed, answer in enumerate(answers):
        assert answer.tokens() == alone(make_bench, plan, prompt, seed=seed).tokens()


def test_seeds_reproduce_in_any_batch_and_order(make_bench: MakeBench, make_plan: MakePlan) -> None:
    plan = make_plan({"rule": "top_p", "p": 0.95}, greedy=False)
    prompts = make_prompts(5, (4, 30, 70, 12, 50, 3))
    expected = [
        alone(make_bench, plan, prompt, seed=seed).tokens() for seed, prompt in enumerate(prompts)
    ]
    assert len(set(map(tuple, expected))) == len(expected)
    for max_groups in (2, 8):
        for order in (range(6), range(5, -1, -1), (3, 0, 5, 1, 4, 2)):
            bench = make_bench(max_groups=max_groups, max_batch_tokens=29)
            answers = {seed: bench.submit(plan, prompts[seed], seed=seed) for seed in order}
            bench.run()
            assert [answers[seed].tokens() for seed in range(6)] == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_random_traffic_in_a_small_cache_equals_alone(
    seed: int, make_bench: MakeBench, make_plan: MakePlan
) -> None:
    chance = random.Random(seed)
    plan = make_plan(greedy=False)
    stems = make_prompts(seed, (70, 33, 100))
    prompts = [
        chance.choice(stems)[: chance.randrange(20, 101)] + tail
        for tail in make_prompts(seed + 50, [chance.randrange(1, 20) for _ in range(24)])
    ]
    bench = make_bench(cache_tokens=32 * 14, max_groups=4, max_batch_tokens=50)
    answers = []
    cancelled = set()
    for number, prompt in enumerate(prompts):
        answers.append(bench.submit(plan, prompt, seed=number, max_tokens=chance.randrange(1, 25)))
        for _ in range(chance.randrange(4)):
            bench.step()
        victim = chance.randrange(number + 1)
        if chance.random() < 0.2 and not answers[victim].is_over:
            bench.cancel(answers[victim])
            cancelled.add(victim)
    bench.run()
    assert bench.held_blocks == 0
    assert cancelled
    hits = 0
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        tokens = answer.tokens()
        expected = alone(make_bench, plan, prompt, seed=number, max_tokens=25).tokens()
        assert tokens == expected[: len(tokens)]
        if number not in cancelled:
            hits += answer.finished.usage.cached_prompt_tokens
            assert answer.finished.usage.output_tokens == len(tokens)
    assert hits > 0


def test_choices_differ_and_repeat(make_bench: MakeBench, make_plan: MakePlan) -> None:
    plan = make_plan(greedy=False)
    (prompt,) = make_prompts(6, (70,))
    many = alone(make_bench, plan, prompt, num_choices=10, seed=9)
    texts = [many.tokens(choice) for choice in range(10)]
    assert len(set(map(tuple, texts))) == 10
    again = alone(make_bench, plan, prompt, num_choices=10, seed=9)
    assert [again.tokens(choice) for choice in range(10)] == texts
    fewer = alone(make_bench, plan, prompt, num_choices=3, seed=9)
    assert [fewer.tokens(choice) for choice in range(3)] == texts[:3]
    assert len(many.finished.endings) == 10
    assert many.finished.usage.prompt_tokens == 70
    assert many.finished.usage.output_tokens == 120


def test_several_models_are_served_at_once(
    save: Callable[..., Path], tmp_path: Path, tiny_llama: LoadedModel, make_plan: MakePlan
) -> None:
    folder = save(tmp_path, "gpt2", n_embd=32, n_layer=1, n_head=2, n_positions=128)
    other = load_model("other", str(folder), dtype="float32")
    models = {"tiny": engine_model(tiny_llama), "other": engine_model(other)}
    plans = {"tiny": make_plan(), "other": make_plan(loaded=other)}
    prompts = make_prompts(7, (9, 40, 20, 33))
    together = Bench(models)
    answers = [
        together.submit(plans[name], prompt, model=name)
        for prompt, name in zip(prompts, ("tiny", "other", "other", "tiny"), strict=True)
    ]
    together.run()
    for answer, prompt, name in zip(
        answers, prompts, ("tiny", "other", "other", "tiny"), strict=True
    ):
        single = Bench({name: models[name]})
        expected = single.submit(plans[name], prompt, model=name)
        single.run()
        assert answer.tokens() == expected.tokens()


# Text


def test_text_is_the_decoding_of_all_bytes(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan(greedy=False)
    bench = make_bench()
    answers = [bench.submit(plan, [5], seed=seed, max_tokens=60) for seed in range(8)]
    bench.run()
    data = [tiny_llama.vocabulary.bytes_of(answer.tokens()) for answer in answers]
    assert any("\ufffd" in answer.text() for answer in answers)
    assert [answer.text() for answer in answers] == [one.decode(errors="replace") for one in data]


def test_a_stop_string_over_several_tokens_cuts_the_text(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    (prompt,) = make_prompts(8, (11,))
    free = alone(make_bench, make_plan(), prompt, max_tokens=40)
    text = free.text()
    begin = next(i for i in range(12, len(text)) if "\ufffd" not in text[i : i + 5])
    stop = text[begin : begin + 5]
    answer = alone(
        make_bench, make_plan({"rule": "stop_strings", "values": [stop]}), prompt, max_tokens=40
    )
    assert answer.text() == text[: text.index(stop)]
    (ending,) = answer.finished.endings
    assert ending.reason is FinishReason.STOP_STRING
    assert ending.matched_stop == stop
    assert answer.tokens() == free.tokens()[: ending.output_tokens]
    assert any(
        len(event.token_ids) > 1 for event in answer.events if isinstance(event, TokensEvent)
    )


def reference_with_bans(
    loaded: LoadedModel, prompt: list[int], banned: list[bytes], max_tokens: int
) -> list[int]:
    """Decode greedily, the whole text anew for every token, going back when it spells a ban."""
    model: Any = copy.deepcopy(loaded.model)
    model.set_attn_implementation("eager")
    spell = loaded.vocabulary.token_bytes
    output: list[int] = []
    illegal: dict[int, set[int]] = {}
    while len(output) < max_tokens:
        logits = model(input_ids=torch.tensor([prompt + output])).logits[0, -1]
        for token in illegal.get(len(output), ()):
            logits[token] = -torch.inf
        output.append(int(logits.argmax()))
        if output[-1] in loaded.eos_ids:
            break
        text = b"".join(spell[token] for token in output)
        found = [(text.find(one) + len(one), text.find(one)) for one in banned if one in text]
        if found:
            _, start = min(found)
            position = 0
            while len(b"".join(spell[token] for token in output[: position + 1])) <= start:
                position += 1
            illegal = {place: tokens for place, tokens in illegal.items() if place <= position}
            illegal.setdefault(position, set()).add(output[position])
            del output[position:]
    return output


def test_banned_strings_equal_a_naive_loop(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    num_rollbacks = 0
    for prompt in make_prompts(9, (6, 33, 20, 9)):
        free = alone(make_bench, make_plan(), prompt, max_tokens=30).text()
        banned = [
            part
            for size, begin in ((1, 3), (3, 5), (2, 12), (4, 16))
            if "\ufffd" not in (part := free[begin : begin + size]) and part
        ]
        plan = make_plan({"rule": "banned_strings", "values": banned})
        answer = alone(make_bench, plan, prompt, max_tokens=30)
        with torch.inference_mode():
            expected = reference_with_bans(
                tiny_llama, prompt, [part.encode() for part in banned], 30
            )
        assert answer.tokens() == expected
        assert not any(part in answer.text() for part in banned)
        num_rollbacks += answer.text() != free
    assert num_rollbacks == 4


def test_logprobs_are_those_of_the_models_row(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    (prompt,) = make_prompts(10, (20,))
    answer = alone(
        make_bench, make_plan({"rule": "logit_bias", "ids": {3: -50.0}}), prompt, logprobs=4
    )
    model: Any = copy.deepcopy(tiny_llama.model)
    model.set_attn_implementation("eager")
    tokens = answer.tokens()
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    expected = logits.double().log_softmax(-1)
    events = [event for event in answer.events if isinstance(event, TokensEvent)]
    position = 0
    for event in events:
        assert event.logprobs is not None
        for i, token in enumerate(event.token_ids):
            row = expected[position]
            assert event.logprobs.raw[i] == pytest.approx(float(row[token]), abs=1e-4)
            assert event.logprobs.raw_rank[i] == 1 + int((row > row[token]).sum())
            assert event.logprobs.controlled_rank[i] == 1
            assert event.logprobs.top_raw[i].token_ids == row.topk(4).indices.tolist()
            assert len(event.logprobs.top_controlled[i].logprobs) == 4
            position += 1
    assert position == len(tokens) == 12


# Life and death


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


def test_a_row_of_nan_fails_its_request_alone(
    make_bench: MakeBench, make_plan: MakePlan, tiny_llama: LoadedModel
) -> None:
    plan = make_plan()
    prompts = make_prompts(12, (10, 40, 33))
    is_broken = True

    def poison(step: StepPlan, logits: torch.Tensor) -> None:
        for row, place in enumerate(step.logits_rows):
            if is_broken and step.positions[place] == 44:
                logits[row] = torch.nan

    model = engine_model(tiny_llama)
    bench = make_bench({"tiny": replace(model, runner=WrappedRunner(model.runner, poison))})
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


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.prefixes: list[tuple[str, int, int]] = []
        self.ends: list[tuple[str, int]] = []

    def step(self, report: Any) -> None:
        self.steps.append(report)

    def prefix(self, model: str, queried_tokens: int, hit_tokens: int) -> None:
        self.prefixes.append((model, queried_tokens, hit_tokens))

    def finished(
        self,
        request: EngineRequest,
        event: FinishedEvent | FailedEvent,
        token_gaps: Sequence[float],
    ) -> None:
        self.ends.append((request.request_id, len(token_gaps)))


def test_the_observer_sees_steps_prefixes_and_ends(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plan = make_plan(greedy=False)
    recorder = Recorder()
    bench = make_bench(max_batch_tokens=50, observer=recorder)
    (prompt,) = make_prompts(14, (70,))
    bench.submit(plan, prompt, num_choices=2, max_tokens=5)
    bench.run()
    assert recorder.prefixes == [("tiny", 70, 0), ("tiny", 70, 64)]
    assert recorder.ends == [("r0", 8)]
    assert sum(report.prefill_tokens for report in recorder.steps) == 70 + 6
    assert sum(report.decode_rows for report in recorder.steps) == 8
    assert sum(report.rows for report in recorder.steps) == 10
    assert all(report.blocks_total == 128 for report in recorder.steps)
    assert recorder.steps[0].blocks_used > 0
    assert all(
        min(report.forward_s, report.control_s, report.rest_s) >= 0 for report in recorder.steps
    )
    assert all(report.model == "tiny" for report in recorder.steps)


def test_an_observer_that_fails_hurts_nobody(make_bench: MakeBench, make_plan: MakePlan) -> None:
    class Clumsy:
        def fail(self, *_: object) -> None:
            raise RuntimeError("no such metric")

        step = prefix = finished = fail

    bench = make_bench(observer=Clumsy())
    answers = [bench.submit(make_plan(), [1, 2], max_tokens=count) for count in (2, 4)]
    bench.run()
    assert [len(answer.tokens()) for answer in answers] == [2, 4]
    waiting = bench.submit(make_plan(), [1, 2])
    bench.stepper.roster.fail_all(InternalFault())
    bench.collect()
    assert isinstance(waiting.error, InternalFault)


def test_an_engine_model_needs_only_the_runner_interface(tiny_llama: LoadedModel) -> None:
    model = engine_model(tiny_llama)
    runner: ModelRunner = WrappedRunner(model.runner, lambda step, logits: None)
    assert (
        EngineModel(runner=runner, vocabulary=tiny_llama.vocabulary, context_tokens=512).digest
        == ""
    )
