"""The mask kernel in Triton's interpreter, and on a device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bosal_kernels import LegalTokens

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str, **environment: str) -> str:
    """Run a script of this folder: Triton reads its settings when it is imported."""
    path = os.pathsep.join([str(ROOT / "kernels"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / script), *arguments],
        env={**os.environ, **environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernel_masks_as_the_torch_path_does() -> None:
    run("interpreted_bitmask.py", TRITON_INTERPRET="1")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("size", [100, 50257, 151936])
def test_a_device_masks_as_the_cpu_does(size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(64, size, generator=generator)
    rows = torch.randperm(64, generator=generator)[:40]
    bits = torch.randint(-(2**31), 2**31, (40, -(-size // 32)), generator=generator).int()
    on_device = logits.cuda()
    LegalTokens(rows.cuda(), bits.cuda()).forbid(on_device)
    LegalTokens(rows, bits).forbid(logits)
    assert torch.equal(on_device.cpu(), logits)
