"""The engine on a device: on a simulated one, which needs none, and on a real one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bosal_decoding import fused_draw
from bosal_kernels import delivery
from bosal_kernels.transfer import delivered
from bosal_server.model import LoadedModel, load_model

from .device_requests import engine, submit

needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


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
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cuda_itself_sees_no_other_wait_than_the_delivery(
    dtype: str, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model("tiny", str(tiny_llama_folder), dtype=dtype, device="cuda")
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
