"""The fused kernels in Triton's interpreter, and compiled for devices that are not at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.kernels.test_bitmask_apply import ROOT, run

from bosal_kernels import CombineState, SlotParams, SlotState, TouchedTokens

pytest.importorskip("triton")

# More registers than these leave too few warps to hide the memory's latency.
REGISTERS = {
    "bitmask_apply": 40,
    "row_tiles": 48,
    "stream_masses": 48,
    "row_logprobs": 96,
    "gumbel_topk": 128,
    "history_scan": 64,
    "control_reduce_all_moments": 128,
    "select": 240,
}


@pytest.mark.parametrize(
    "script",
    [
        "interpreted_noise.py",
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


class Launches(list[dict[str, Any]]):
    """Stands for a kernel: keeps what it is launched with."""

    def __getitem__(self, grid: Any) -> Any:
        return lambda **given: self.append(given)


def launches(patch: pytest.MonkeyPatch, **kernels: ModuleType) -> list[dict[str, Any]]:
    """Return what kernels of modules are launched with from now on, in place of running them."""
    found = Launches()
    for name, module in kernels.items():
        patch.setattr(module, name, found)
    return found


def test_kernels_do_not_fuse_products_and_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    from bosal_kernels.fused import control_reduce, gumbel_topk, row_logprobs, row_tiles, select

    found = launches(
        monkeypatch,
        control_reduce_kernel=control_reduce,
        gumbel_topk_kernel=gumbel_topk,
        row_logprobs_kernel=row_logprobs,
        row_tiles_kernel=row_tiles,
        select_kernel=select,
    )
    rows, zero = torch.zeros(1, 100), torch.tensor([0])
    state, coupling = SlotState(num_slots=1, vocab_size=100, packs_touched=True), CombineState(1)
    row_logprobs.row_logprobs(rows, zero, 1)
    gumbel_topk.gumbel_topk(rows, zero, zero, 1)
    select.select(
        control_reduce.control_reduce(rows, state, coupling, zero, zero, zero.int() + 1),
        state,
        coupling,
    )
    assert [given["enable_fp_fusion"] for given in list(found)] == [False] * 6


def test_one_kernel_scans_histories_with_and_without_breakers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bosal_kernels.fused import history_scan

    found = launches(monkeypatch, history_scan_kernel=history_scan)
    for breakers in ([], [3]):
        state = SlotState(num_slots=1, vocab_size=9, packs_touched=True)
        params = SlotParams(key=1, dry_multiplier=1.0)
        state.admit(0, params, TouchedTokens.of(), instruction=[1, 2], breakers=breakers)
        history_scan.history_scan(state, torch.tensor([0]))
    kinds = [
        {
            name: value.dtype if isinstance(value, torch.Tensor) else type(value)
            for name, value in given.items()
        }
        for given in list(found)
    ]
    assert kinds[0] == kinds[1]
    constants = [{n: v for n, v in given.items() if n.isupper()} for given in list(found)]
    assert constants[0] == constants[1] == {"BLOCK": history_scan.BLOCK}


# Forty seconds of a processor, and many times that on a busy one.
@pytest.mark.timeout(900)
@pytest.mark.long
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
    assert details["launches_of_log_probabilities_without_history"] == 3
    for name, limit in REGISTERS.items():
        assert 0 < details[f"{name}_bf16_sm90_registers"] <= limit, name
    for name in ("bitmask_apply", "row_tiles", "stream_masses"):
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
