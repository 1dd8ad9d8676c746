"""Which runner a model gets, and what is said about it."""

import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.live_server import environment

from bosal_server.engine import runner_choice
from bosal_server.engine.openvino_check import check, num_blocks_needed
from bosal_server.engine.openvino_compiled import compile_graph
from bosal_server.engine.openvino_convert import Conversion, convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import OpenVinoRefused, has_bf16
from bosal_server.engine.runner_choice import OpenVinoNeeded, choose_runner
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.model import LoadedModel, load_model

GEMMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "sliding_window": 24,
    "pad_token_id": 0,
}
_WINDOWED = ("sliding_window", "head_dim")


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory, save: Callable[..., Path]) -> LoadedModel:
    """A model that torch serves and OpenVINO does not."""
    folder = save(tmp_path_factory.mktemp("gemma2"), "gemma2", **GEMMA)
    return load_model("capped", str(folder), dtype="float32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conversions")


@pytest.mark.parametrize("preference", ["auto", "openvino"])
def test_a_model_that_converts_runs_on_openvino(
    preference: str, tiny_llama: LoadedModel, folder: Path
) -> None:
    choice = choose_runner(
        tiny_llama,
        preference=preference,
        dtype="float32",
        cache_tokens=100,
        threads=1,
        conversions=folder,
    )
    assert (choice.runner.kind, choice.runner.dtype) == ("openvino", "float32")
    assert choice.runner.num_blocks == 4
    assert not choice.is_fallback
    assert "39 of 39 greedy tokens equal" in choice.reason
    plan = StepPlan.pack([Chunk([5, 6, 7], 0, [3], True)], choice.runner.block_size)
    torch.testing.assert_close(
        choice.runner.forward(plan), tiny_llama.runner(cache_tokens=128).forward(plan)
    )


def test_the_cpu_decides_the_type_unless_it_is_stated(
    tiny_llama: LoadedModel, folder: Path
) -> None:
    choice = choose_runner(tiny_llama, cache_tokens=100, threads=1, conversions=folder)
    assert choice.runner.dtype == ("bfloat16" if has_bf16() else "float32")


def test_torch_may_be_the_coarser_of_the_two(tiny_llama_folder: Path, folder: Path) -> None:
    model = load_model("rounded", str(tiny_llama_folder), dtype="bfloat16")
    choice = choose_runner(model, dtype="float32", cache_tokens=100, threads=1, conversions=folder)
    assert (choice.runner.kind, choice.runner.dtype) == ("openvino", "float32")


def test_bfloat16_is_not_replaced_where_it_was_asked_for(
    tiny_llama_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_choice, "has_bf16", lambda: False)
    model = load_model("rounded", str(tiny_llama_folder), dtype="bfloat16")
    settings: dict[str, Any] = {"cache_tokens": 100, "threads": 1, "conversions": folder}
    choice = choose_runner(model, dtype="bfloat16", **settings)
    assert (choice.runner.kind, choice.runner.dtype) == ("torch", "bfloat16")
    assert "no instructions for" in choice.reason
    with pytest.raises(OpenVinoRefused, match="no instructions for"):
        choose_runner(model, preference="openvino", dtype="bfloat16", **settings)


def test_what_bfloat16_would_round_is_computed_in_float32(
    tmp_path: Path, save: Callable[..., Path], folder: Path
) -> None:
    settings = {key: value for key, value in GEMMA.items() if key not in _WINDOWED}
    model = load_model("cohere", str(save(tmp_path, "cohere", **settings)), dtype="float32")
    choice = choose_runner(model, cache_tokens=100, threads=1, conversions=folder)
    assert (choice.runner.kind, choice.runner.dtype) == ("openvino", "float32")


def test_cascade_attention_on_request(tiny_llama: LoadedModel, folder: Path) -> None:
    for wanted in (True, False):
        choice = choose_runner(
            tiny_llama,
            dtype="float32",
            cascade_attention=wanted,
            cache_tokens=100,
            threads=1,
            conversions=folder,
        )
        assert ("cascade attention" in choice.reason) == wanted


def test_eight_bit_weights_and_cache_on_request(tiny_llama: LoadedModel, folder: Path) -> None:
    choice = choose_runner(
        tiny_llama, weights="int8", kv_cache="u8", cache_tokens=100, threads=1, conversions=folder
    )
    assert choice.runner.kind == "openvino"
    dtype = "bfloat16" if has_bf16() else "float32"
    assert choice.precision == f"{dtype} with int8 weights and u8 key-value cache"
    assert "allowed 1e-01" in choice.reason
    with pytest.raises(ValueError, match="weights are one of model, int8"):
        choose_runner(tiny_llama, weights="int4")


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"weights": "int8"}, "--weights int8 needs"),
        ({"kv_cache": "u8"}, "--kv-cache u8 needs"),
        ({"weights": "int8", "kv_cache": "u8"}, "--weights int8 and --kv-cache u8 needs"),
        ({"cascade_attention": True}, "--cascade-attention needs"),
    ],
)
def test_torch_has_neither_eight_bits_nor_cascades(
    options: dict[str, Any], asked: str, tiny_llama: LoadedModel, capped: LoadedModel
) -> None:
    """Whether it was asked for or is what OpenVINO's refusal leaves."""
    with pytest.raises(OpenVinoNeeded, match=f"{asked} the OpenVINO runner.*: asked for"):
        choose_runner(tiny_llama, preference="torch", **options)
    with pytest.raises(OpenVinoNeeded, match=f"{asked} the OpenVINO runner.*soft-capped"):
        choose_runner(capped, **options)


def test_the_torch_weights_can_go_once_the_conversion_is_on_disk(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    model = load_model("tiny", str(tiny_llama_folder), dtype="float32")
    in_memory = choose_runner(model, cache_tokens=100, threads=1)
    assert in_memory.needs_torch_weights
    in_memory.runner.close()
    choice = choose_runner(model, cache_tokens=100, threads=1, conversions=tmp_path)
    assert not choice.needs_torch_weights
    plan = StepPlan.pack([Chunk([5, 6, 7], 0, [3], True)], choice.runner.block_size)
    expected = choice.runner.forward(plan).clone()
    model.release_weights()
    assert not any(weight.numel() for weight in model.model.parameters())
    assert torch.equal(choice.runner.forward(plan), expected)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is of x86-64")
def test_a_processor_of_avx2_alone_computes_the_same(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    """As far as OpenVINO's kernels let themselves be told what the processor has."""
    program = (
        "import sys; from pathlib import Path\n"
        "from bosal_server.engine.runner_choice import choose_runner\n"
        "from bosal_server.model import load_model\n"
        "model = load_model('tiny', sys.argv[1], dtype='float32')\n"
        "choice = choose_runner(model, preference='openvino', dtype='float32', cache_tokens=100,"
        " threads=1, conversions=Path(sys.argv[2]))\n"
        "nodes = choice.runner._graph.compiled.get_runtime_model().get_ops()\n"
        "kinds = {node.get_rt_info()['primitiveType'].astype(str) for node in nodes}\n"
        "assert any('avx2' in kind for kind in kinds), kinds\n"
        "print(choice.reason)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tiny_llama_folder), str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment(ONEDNN_MAX_CPU_ISA="AVX2", OMP_NUM_THREADS="1"),
    )
    assert "39 of 39 greedy tokens equal" in ended.stdout, ended.stderr


def test_torch_by_name(tiny_llama: LoadedModel) -> None:
    choice = choose_runner(tiny_llama, preference="torch", cache_tokens=100)
    assert (choice.runner.kind, choice.reason, choice.is_fallback) == ("torch", "asked for", False)


def test_auto_falls_back_to_torch_and_says_why(
    capped: LoadedModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        choice = choose_runner(capped, cache_tokens=100, conversions=folder)
    assert (choice.runner.kind, choice.is_fallback) == ("torch", True)
    assert "soft-capped" in choice.reason
    assert [record.getMessage()[:14] for record in caplog.records] == ["model 'capped'"]
    assert "soft-capped" in caplog.text


def test_openvino_by_name_refuses_with_the_reason(capped: LoadedModel, folder: Path) -> None:
    with pytest.raises(OpenVinoRefused, match="soft-capped"):
        choose_runner(capped, preference="openvino", conversions=folder)


def test_without_the_package_torch_serves(
    tiny_llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    choice = choose_runner(tiny_llama, cache_tokens=100)
    assert (choice.runner.kind, choice.is_fallback) == ("torch", True)
    assert "not installed" in choice.reason
    with pytest.raises(OpenVinoRefused, match="not installed"):
        choose_runner(tiny_llama, preference="openvino")


def test_what_does_not_fit_into_memory_is_refused_before_it_is_tried(
    tiny_llama: LoadedModel,
) -> None:
    with pytest.raises(OpenVinoRefused, match=r"need \d+\.\d GiB of memory, \d+\.\d GiB are left"):
        choose_runner(tiny_llama, preference="openvino", cache_tokens=10**12)


def test_unknown_names_are_errors(tiny_llama: LoadedModel) -> None:
    with pytest.raises(ValueError, match="known: auto, openvino, torch"):
        choose_runner(tiny_llama, preference="onnx")
    with pytest.raises(OpenVinoRefused, match="float16"):
        choose_runner(tiny_llama, preference="openvino", dtype="float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", ["window", "weights", "positions"])
def test_the_self_check_finds_a_wrong_model(
    fault: str,
    dtype: str,
    tiny_llama: LoadedModel,
    tmp_path: Path,
    save: Callable[..., Path],
) -> None:
    if dtype == "bfloat16" and not has_bf16():
        dtype = "float32"
    conversion = convert(tiny_llama.model)
    if fault == "window":
        layers = [replace(layer, sliding_window=64) for layer in conversion.layers]
        conversion = replace(conversion, layers=(conversion.layers[0], layers[1]))
    elif fault == "weights":
        conversion = convert(with_other_weights(tiny_llama, save, tmp_path))
    candidate = runner_of(conversion, dtype)
    if fault == "positions":
        forward = candidate.forward
        candidate.forward = lambda plan: forward(  # type: ignore[method-assign]
            replace(plan, positions=plan.positions + (plan.positions > 100))
        )
    reference = tiny_llama.runner(cache_tokens=32 * num_blocks_needed(32))
    with pytest.raises(OpenVinoRefused, match="self-check failed"):
        check(
            candidate,
            reference,
            context_tokens=tiny_llama.context_tokens,
            num_parameters=tiny_llama.num_parameters,
        )


def runner_of(conversion: Conversion, dtype: str) -> OpenVinoRunner:
    return OpenVinoRunner(
        compile_graph(conversion, dtype=dtype, threads=1), num_blocks=num_blocks_needed(32)
    )


def with_other_weights(
    model: LoadedModel, save: Callable[..., Path], tmp_path: Path
) -> torch.nn.Module:
    """The same model with one matrix of its second layer half as large."""
    config = model.model.config.to_dict()
    del config["model_type"]
    other: torch.nn.Module = load_model(
        "other", str(save(tmp_path, "llama", **config)), dtype="float32"
    ).model
    with torch.no_grad():
        other.get_parameter("model.layers.1.mlp.down_proj.weight").mul_(0.5)
    return other


@pytest.mark.parametrize("context_tokens", [16, 40, 100, 4096])
def test_the_self_check_fits_any_context(context_tokens: int, tiny_llama: LoadedModel) -> None:
    candidate = runner_of(convert(tiny_llama.model), "float32")
    reference = tiny_llama.runner(cache_tokens=32 * num_blocks_needed(32))
    report = check(
        candidate,
        reference,
        context_tokens=min(context_tokens, tiny_llama.context_tokens),
        num_parameters=tiny_llama.num_parameters,
    )
    assert report.num_equal_tokens == report.num_rows
    assert report.max_error < 1e-5
