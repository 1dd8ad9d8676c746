"""Kernels compiled beforehand: which, and by processes that see no device."""

import os
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from bosal_decoding.kernel_compiler import Rows, compile_beside
from bosal_kernels.fused.builds import BUILDS, EVERYTHING, Build, build_for

FLAGS = ("is_normed", "is_legal", "looks_back", "has_reports", "is_plausible", "has_moments")
ROWS = Rows(dtype="bfloat16", width=400, num_tokens=390, target=("cuda", 90, 32))
SCAN = (BUILDS.index(EVERYTHING), "history_scan_kernel")


def test_what_is_compiled_covers_whatever_a_step_may_ask() -> None:
    for depth, flags in product((1, 2, 3), product((False, True), repeat=len(FLAGS))):
        asked = Build(max_depth=depth, **dict(zip(FLAGS, flags, strict=True)))
        assert build_for(asked).covers(asked)
    # Each is somebody's cheapest, and none comes behind one that serves all it serves.
    assert [build_for(one) for one in BUILDS] == list(BUILDS)


def test_a_step_takes_what_costs_least() -> None:
    assert build_for(Build()) == Build()
    assert build_for(Build(is_legal=True)) == Build(is_legal=True)
    assert build_for(Build(max_depth=2)).max_depth == 2
    assert build_for(Build(has_moments=True)).max_depth == 1
    assert not build_for(Build(has_reports=True)).looks_back


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path


def test_another_process_finds_what_one_has_compiled_without_a_device(cache: Path) -> None:
    assert compile_beside(ROWS, [SCAN], 1)
    files = {file: file.stat().st_mtime_ns for file in cache.rglob("*.*")}
    assert [file for file in files if file.suffix == ".cubin"]
    # The scan reads no row: one serves models of all sizes.
    assert compile_beside(replace(ROWS, dtype="float32", width=528), [SCAN], 1)
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*.*")} == files


def test_a_process_that_fails_is_told_of(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not compile_beside(replace(ROWS, dtype="decimal"), [SCAN], 1)
    assert "decimal" in caplog.text
    assert os.listdir(cache) == []
