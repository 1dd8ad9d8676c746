"""The fused kernels in Triton's interpreter, and compiled for devices that are not at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.kernels.test_bitmask_apply import ROOT, run

pytest.importorskip("triton")

# More registers than these leave too few warps to hide the memory's latency.
REGISTERS = {
    "bitmask_apply": 40,
    "row_tiles": 48,
    "row_logprobs": 96,
    "gumbel_topk": 128,
    "history_scan": 64,
    "control_reduce_all_moments": 96,
    "select": 224,
}


@pytest.mark.parametrize(
    "script",
    [
        "interpreted_rows.py",
        "interpreted_control.py",
        "interpreted_history.py",
        "interpreted_select.py chains",
        "interpreted_select.py streams",
        "interpreted_select.py logprobs",
        "interpreted_timing.py",
    ],
)
def test_the_kernels_do_as_the_torch_path_does(script: str) -> None:
    run(*script.split(), TRITON_INTERPRET="1")


# Forty seconds of a processor, and many times that on a busy one.
@pytest.mark.timeout(900)
def test_the_kernels_compile_without_spills_and_read_128_bits_at_a_time(tmp_path: Path) -> None:
    report = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.kernels", "--count-only", "--quick"]
    command += ["--threads", "1"]
    path = os.pathsep.join([str(ROOT / "kernels"), *filter(None, sys.path)])
    subprocess.run(
        [*command, "--json", str(report)],
        env={**os.environ, "PYTHONPATH": path, "TRITON_CACHE_DIR": str(tmp_path / "cache")},
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=880,
    )
    found = json.loads(report.read_text())
    assert found["figures"] == {"spills": 0, "launches_per_step": 3}
    details = found["details"]
    assert details["launches_without_history"] == 2
    for name, limit in REGISTERS.items():
        assert 0 < details[f"{name}_bf16_sm90_registers"] <= limit, name
    for name in ("bitmask_apply", "row_tiles"):
        for dtype in ("bf16", "fp16", "fp32"):
            for arch in (80, 90):
                assert details[f"{name}_{dtype}_sm{arch}_wide_loads"] > 0, (name, dtype, arch)
    assert details["control_reduce_all_moments_bf16_sm90_wide_loads"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_times_are_refused() -> None:
    path = os.pathsep.join([str(ROOT / "kernels"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kernels"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert "no CUDA device" in done.stderr
    assert "--count-only" in done.stderr
