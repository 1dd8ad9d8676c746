"""The engine on a device: on a simulated one, which needs none, and on a real one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.simulated_device import SimulatedDevice, put
from torch.nn import functional

from bosal_decoding import fused_draw, pipeline
from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_kernels import bitmask, delivery
from bosal_kernels.transfer import delivered
from bosal_server.model import LoadedModel, load_model

from .bench import Answer
from .device_requests import WARM, engine, submit

needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.long
def test_a_step_on_a_simulated_device_draws_as_on_the_cpu_and_waits_once() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "interpreted_engine.py"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout


# What the kernels do not execute, alone and together.
UNFUSED: tuple[list[dict[str, Any]], ...] = (
    [WARM, {"rule": "typical", "p": 0.8}],
    [{"rule": "mirostat", "tau": 3}],
    [{"rule": "dynamic_temperature", "low": 0.5, "high": 1.5}, {"rule": "top_k", "k": 9}],
    [{"rule": "presence_penalty", "value": 2.0, "window": 2}, WARM],
    [{"rule": "top_p", "p": 0.9, "when": {"top1_below": 0.5}}, {"rule": "dry", "multiplier": 2.0}],
    [{"rule": "allowed_tokens", "ids": list(range(20, 90))}, WARM],
    [{"rule": "banned_strings", "values": ["a", "e"]}, {"rule": "no_repeat_ngram", "n": 2}, WARM],
    [{"rule": "guidance", "scale": 1.5, "when": {"entropy_above": 1.0}}, WARM],
)


def test_the_torch_path_draws_on_a_simulated_device_as_on_the_cpu(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "backend_of", lambda _: "torch")
    monkeypatch.setattr(bitmask, "find_spec", lambda _: None)

    def answers(loaded: LoadedModel) -> list[Answer]:
        bench = engine(loaded)
        found = []
        for number, rules in enumerate(UNFUSED):
            recipe = Recipe.parse({"scaffold": {"kind": "raw"}, "rules": rules})
            plan = compile_recipe(recipe, loaded.vocabulary, context_tokens=256)
            prompts = plan.prompts([Message(role="user", text="What boils?"[number:])])
            options = {"logprobs": 2} if number % 2 else {}
            found.append(
                bench.submit(plan, (), prompts=prompts, seed=number, max_tokens=9, **options)
            )
        bench.run()
        return found

    wanted = answers(tiny_llama)
    cuda: Any = torch.backends.cuda
    uses_cudnn = set()
    attend = functional.scaled_dot_product_attention

    def seen(*args: Any, **kwargs: Any) -> Any:
        uses_cudnn.add(cuda.cudnn_sdp_enabled())
        return attend(*args, **kwargs)

    before = cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(functional, "scaled_dot_product_attention", seen)
    with SimulatedDevice():
        for tensor in (*tiny_llama.model.parameters(), *tiny_llama.model.buffers()):
            put(tensor)
        found = answers(replace(tiny_llama, device="cuda:0"))
    # It would build a plan for every shape of a batch.
    assert uses_cudnn == {False}
    assert cuda.cudnn_sdp_enabled() == before
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens() == theirs.tokens()
        assert ours.finished.endings[0].reason is theirs.finished.endings[0].reason


@pytest.mark.gpu
@needs_device
def test_an_engine_on_a_device_draws_as_on_the_cpu_in_float32(
    tiny_llama: LoadedModel, tiny_llama_folder: Path
) -> None:
    on_cpu = engine(tiny_llama)
    wanted = submit(on_cpu, tiny_llama, max_tokens=24)
    on_cpu.run()
    loaded = load_model("tiny", str(tiny_llama_folder), dtype="float32", device="cuda")
    bench = engine(loaded)
    found = submit(bench, loaded, max_tokens=24)
    bench.run()
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.tokens() == theirs.tokens()
        assert ours.text() == theirs.text()


@pytest.mark.gpu
@needs_device
def test_cuda_itself_sees_no_other_wait_than_the_delivery(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the type whose kernels the test above compiles too.
    loaded = load_model("tiny", str(tiny_llama_folder), dtype="float32", device="cuda")
    bench = engine(loaded)
    # Kernels are compiled and loaded at their first launch, which may wait.
    submit(bench, loaded)
    bench.run()
    deliveries = 0

    def counted(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        nonlocal deliveries
        deliveries += 1
        torch.cuda.set_sync_debug_mode("default")
        try:
            return delivered(tensors)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    for module in (fused_draw, delivery):
        monkeypatch.setattr(module, "delivered", counted)
    answers = submit(bench, loaded, max_tokens=8)
    steps = 0
    torch.cuda.set_sync_debug_mode("error")
    try:
        while bench.stepper.has_work:
            bench.step()
            steps += 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert deliveries == steps
    assert all(answer.finished.endings for answer in answers)
