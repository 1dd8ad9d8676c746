"""A forward pass that fails takes down whose fault it is, and nobody else."""

import logging
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from bosal_decoding.plan import Plan
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.errors import InternalFault
from bosal_server.model import LoadedModel

from .bench import Bench, MakeModel
from .wrapped_runner import WrappedRunner

POISON = 399


class FailingRunner(WrappedRunner):
    """A runner that fails at every batch the test does not like."""

    def __init__(self, runner: ModelRunner, fails: Callable[[StepPlan], bool]) -> None:
        super().__init__(runner)
        self._fails = fails
        self.num_failures = 0

    def forward(self, plan: StepPlan) -> torch.Tensor:
        logits = super().forward(plan)
        if self._fails(plan):
            self.num_failures += 1
            raise torch.OutOfMemoryError("tried to allocate 20 GiB at /secret/path")
        return logits


def prompts(*lengths: int) -> list[list[int]]:
    chance = random.Random(3)
    return [[chance.randrange(1, POISON) for _ in range(length)] for length in lengths]


def test_want_of_memory_in_a_prefill_fails_its_request_alone(
    make_bench: Callable[..., Bench],
    make_plan: Callable[..., Plan],
    tiny_llama: LoadedModel,
    caplog: pytest.LogCaptureFixture,
    engine_model: MakeModel,
) -> None:
    plan = make_plan({"rule": "logit_bias", "ids": {str(POISON): -1000}}, greedy=False)
    others = prompts(10, 33, 70, 5, 64)
    expected = []
    for seed, prompt in enumerate(others):
        bench = make_bench()
        expected.append(bench.submit(plan, prompt, seed=seed, max_tokens=20))
        bench.run()
    model = engine_model(tiny_llama)
    runner = FailingRunner(model.runner, lambda step: POISON in step.input_ids)
    bench = make_bench({"tiny": replace(model, runner=runner)}, max_batch_tokens=48)
    answers = [
        bench.submit(plan, prompt, seed=seed, max_tokens=20)
        for seed, prompt in enumerate(others[:3])
    ]
    for _ in range(4):
        bench.step()
    poisoned = bench.submit(plan, [*prompts(40)[0], POISON, 7], num_choices=2)
    answers += [
        bench.submit(plan, prompt, seed=seed, max_tokens=20)
        for seed, prompt in enumerate(others[3:], start=3)
    ]
    with caplog.at_level(logging.WARNING):
        bench.run()
    assert runner.num_failures >= 2
    assert isinstance(poisoned.error, InternalFault)
    assert "secret" not in str(poisoned.error)
    assert "/secret/path" in caplog.text
    assert [one.tokens() for one in answers] == [one.tokens() for one in expected]
    assert bench.held_blocks == 0


def test_two_prompts_that_fit_one_at_a_time_are_both_served(
    make_bench: Callable[..., Bench],
    make_plan: Callable[..., Plan],
    tiny_llama: LoadedModel,
    engine_model: MakeModel,
) -> None:
    plan = make_plan()
    model = engine_model(tiny_llama)
    runner = FailingRunner(model.runner, lambda step: step.num_tokens > 60)
    bench = make_bench({"tiny": replace(model, runner=runner)})
    answers = [bench.submit(plan, prompt, max_tokens=6) for prompt in prompts(40, 41)]
    bench.run()
    assert runner.num_failures == 1
    for answer, prompt in zip(answers, prompts(40, 41), strict=True):
        alone = make_bench()
        expected = alone.submit(plan, prompt, max_tokens=6)
        alone.run()
        assert answer.tokens() == expected.tokens()


def test_a_model_that_fails_at_everything_fails_everybody(
    make_bench: Callable[..., Bench],
    make_plan: Callable[..., Plan],
    tiny_llama: LoadedModel,
    engine_model: MakeModel,
) -> None:
    model = engine_model(tiny_llama)
    runner = FailingRunner(model.runner, lambda step: True)
    bench = make_bench({"tiny": replace(model, runner=runner)})
    answers = [bench.submit(make_plan(), prompt) for prompt in prompts(4, 5, 6)]
    bench.run()
    assert all(isinstance(answer.error, InternalFault) for answer in answers)
    assert bench.held_blocks == 0


@pytest.mark.parametrize("chosen", [[0], [2], [0, 2], [1, 3], [0, 1, 2, 3]])
def test_a_part_of_a_plan_is_the_plan_of_the_part(chosen: list[int]) -> None:
    chunks = [
        Chunk([1, 2, 3], 0, [5], 1),
        Chunk([4], 40, [6, 7], 1),
        Chunk([5, 6, 7, 8], 30, [8, 9, 10], 2),
        Chunk([9, 10], 8, [11], 0),
    ]
    part, rows = StepPlan.pack(chunks, 32).only(chosen)
    expected = StepPlan.pack([chunks[i] for i in chosen], 32)
    for name in StepPlan.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name), err_msg=name)
    begins = np.cumsum([0, 1, 1, 2, 0])
    assert rows.tolist() == [row for i in chosen for row in range(begins[i], begins[i + 1])]
