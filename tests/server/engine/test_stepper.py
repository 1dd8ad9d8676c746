"""Requests side by side, in any chunking, over cached prefixes: as each alone."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.request import (
    EngineRequest,
    FailedEvent,
    FinishedEvent,
)
from bosal_server.engine.runner import ModelRunner
from bosal_server.errors import InternalFault
from bosal_server.model import LoadedModel, load_model

from .bench import Bench, MakeModel, alone, make_prompts
from .wrapped_runner import WrappedRunner

MakeBench = Callable[..., Bench]
MakePlan = Callable[..., Plan]


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
    """Under rules that are on in one request and off, with live parameters, in its neighbours."""
    chance = random.Random(seed)
    rules = {"rule": "presence_penalty", "window": 8}, {"rule": "dry", "window": 20}
    plans = [
        make_plan(greedy=False),
        *(
            make_plan(
                {**rules[0], "value": strength},
                {**rules[1], "multiplier": strength},
                {"rule": "top_p", "p": 1 - strength / 20},
                greedy=False,
            )
            for strength in (0.0, 1.5)
        ),
    ]
    stems = make_prompts(seed, (70, 33, 100))
    prompts = [
        chance.choice(stems)[: chance.randrange(20, 101)] + tail
        for tail in make_prompts(seed + 50, [chance.randrange(1, 20) for _ in range(16)])
    ]
    bench = make_bench(cache_tokens=32 * 14, max_groups=4, max_batch_tokens=50)
    answers = []
    cancelled = set()
    for number, prompt in enumerate(prompts):
        budget = chance.randrange(1, 25)
        answers.append(bench.submit(plans[number % 3], prompt, seed=number, max_tokens=budget))
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
        own = plans[number % 3]
        expected = alone(make_bench, own, prompt, seed=number, max_tokens=25).tokens()
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
    save: Callable[..., Path],
    tmp_path: Path,
    tiny_llama: LoadedModel,
    make_plan: MakePlan,
    engine_model: MakeModel,
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


def test_an_engine_model_needs_only_the_runner_interface(
    tiny_llama: LoadedModel, engine_model: MakeModel
) -> None:
    model = engine_model(tiny_llama)
    runner: ModelRunner = WrappedRunner(model.runner)
    assert (
        EngineModel(runner=runner, vocabulary=tiny_llama.vocabulary, context_tokens=512).digest
        == ""
    )
