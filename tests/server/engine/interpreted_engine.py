"""Run by its test under Triton's interpreter: an engine on a device that is simulated.

It draws what the CPU's engine draws, and of each step waits for the device where tokens come down,
and nowhere else.
"""

from tests.kernels import interpreter  # noqa: F401, I001

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from tests.simulated_device import DEVICE, put, simulated_device

from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.model import LoadedModel

from .conftest import Answer, Bench, make_prompts

WARM = {"rule": "temperature", "value": 0.8}
# What the kernels execute, mixed as they come.
RECIPES: tuple[list[Mapping[str, Any]], ...] = (
    [WARM, {"rule": "top_k", "k": 20}, {"rule": "top_p", "p": 0.9}],
    [
        {"rule": "eos_ramp", "weight": 9, "over": 20},
        {"rule": "used_token_weight", "weight": -1.5},
        {"rule": "repetition_penalty", "value": 1.2},
        WARM,
    ],
    [{"rule": "no_repeat_ngram", "n": 2}, {"rule": "dry", "multiplier": 2.0}, WARM],
    [{"rule": "temperature", "value": 0}],
)
OPTIONS: tuple[dict[str, Any], ...] = ({"logprobs": 2}, {}, {}, {"logprobs": 0})


def engine(loaded: LoadedModel, device: torch.device | None) -> Bench:
    if device is not None:
        for tensor in (*loaded.model.parameters(), *loaded.model.buffers()):
            put(tensor)
    model = EngineModel(
        runner=loaded.runner(cache_tokens=2048),
        vocabulary=loaded.vocabulary,
        context_tokens=loaded.context_tokens,
        digest=loaded.digest,
    )
    return Bench({"tiny": model})


def submit(bench: Bench, plans: list[Plan]) -> list[Answer]:
    prompts = make_prompts(5, [40, 3, 70, 11])
    return [
        bench.submit(plan, prompt, seed=number, max_tokens=2 + number % 3, **options)
        for number, (plan, prompt, options) in enumerate(zip(plans, prompts, OPTIONS, strict=True))
    ]


def test_a_step_waits_for_its_device_where_tokens_come_down_and_nowhere_else(
    tiny_llama: LoadedModel, make_plan: Any
) -> None:
    plans = [make_plan(*rules, greedy=False) for rules in RECIPES]
    on_cpu = engine(tiny_llama, None)
    wanted = submit(on_cpu, plans)
    on_cpu.run()
    with simulated_device() as device:
        bench = engine(replace(tiny_llama, device="cuda:0"), DEVICE)
        assert bench.stepper._pipelines["tiny"].backend == "triton"
        found = submit(bench, plans)
        waits = []
        while bench.stepper.has_work:
            device.take_waits()
            bench.step()
            waits.append(device.take_waits())
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens() == theirs.tokens()
    assert {tuple(step) for step in waits} == {("transfer.py:delivered:copy",)}, waits
