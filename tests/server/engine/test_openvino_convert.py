"""Converted models against transformers' own forward pass, architecture by architecture."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bosal_server.engine import openvino_convert
from bosal_server.engine.openvino_compiled import compile_graph
from bosal_server.engine.openvino_convert import convert
from bosal_server.engine.openvino_runner import OpenVinoRunner
from bosal_server.engine.openvino_runtime import OpenVinoRefused, has_bf16
from bosal_server.engine.step import Chunk, StepPlan

VOCABULARY_SIZE = 300
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
}
GROUPED = SMALL | {"num_key_value_heads": 2}
MIXED_LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GROUPED),
    "llama, scaled rope": (
        "llama",
        GROUPED
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2, mixed windows": (
        "qwen2",
        GROUPED | MIXED_LAYERS | {"use_sliding_window": True, "sliding_window": 8},
    ),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 32}),
    "mistral, window": ("mistral", GROUPED | {"sliding_window": 7}),
    "phi3": ("phi3", GROUPED | {"pad_token_id": 0, "sliding_window": None}),
    "phi3, window beyond a block": (
        "phi3",
        GROUPED | {"pad_token_id": 0, "sliding_window": 33},
    ),
    "gemma2, no attention cap": (
        "gemma2",
        GROUPED
        | {
            "head_dim": 16,
            "sliding_window": 9,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": ("gemma3_text", GROUPED | MIXED_LAYERS | {"head_dim": 16, "sliding_window": 9}),
}
# One of each way to rotate.
ROTATED = {
    **{name: ARCHITECTURES[name] for name in ("llama", "qwen3", "phi3", "gemma3")},
    "olmo2": ("olmo2", GROUPED),
    "gpt-neox": ("gpt_neox", SMALL),
}

# Of that Qwen3, the matrices of a layer with 8,192 numbers or more.
LARGE = [
    *(f"self_attn.{name}_proj" for name in "qo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
]


def build(model_type: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    config = AutoConfig.for_model(
        model_type,
        **{"vocab_size": VOCABULARY_SIZE, "eos_token_id": None, "bos_token_id": None} | settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        from_config: Any = AutoModelForCausalLM.from_config
        model = from_config(config, attn_implementation="eager")
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(std=0.12)
    return model.to(dtype).eval()


def draw(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(5)
    ids: list[int] = torch.randint(0, VOCABULARY_SIZE, (count,), generator=generator).tolist()
    return ids


@torch.inference_mode()
def own_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits
    return logits[0].float()


def error_of(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_and_greedy_tokens_equal_the_models_own(name: str) -> None:
    model = build(*ARCHITECTURES[name])
    runner = OpenVinoRunner(compile_graph(convert(model), dtype="float32", threads=1), num_blocks=8)
    prompt, table = draw(75), [5, 1, 6]

    def run(begin: int, end: int) -> torch.Tensor:
        plan = StepPlan.pack([Chunk(prompt[begin:end], begin, table, True)], runner.block_size)
        return runner.forward(plan)[0].clone()

    expected = own_logits(model, prompt)
    whole = run(0, 75)
    assert error_of(whole, expected[-1]) < 1e-5
    for begin, end in ((0, 23), (23, 24), (24, 55), (55, 75)):
        assert error_of(run(begin, end), expected[end - 1]) < 1e-5

    inputs = torch.tensor([prompt])
    # The mask is stated: a prompt that holds the padding token would get another one.
    generated = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=0,
    )
    last = whole
    while len(prompt) < generated.shape[1]:
        prompt.append(int(last.argmax()))
        last = run(len(prompt) - 1, len(prompt))
    assert prompt == generated[0].tolist()


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral, window"])
def test_sixteen_bit_weights_are_taken_as_they_are(name: str) -> None:
    model = build(*ARCHITECTURES[name], dtype=torch.bfloat16)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    conversion = convert(model)
    for key, weight in model.state_dict().items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, before[key])
    prompt = draw(70)
    expected = own_logits(model.float(), prompt)[-1]
    plan = StepPlan.pack([Chunk(prompt, 0, [2, 0, 1], True)], 32)
    exact = OpenVinoRunner(compile_graph(conversion, dtype="float32", threads=1), num_blocks=3)
    assert error_of(exact.forward(plan)[0], expected) < 1e-5
    if has_bf16():
        rounded = OpenVinoRunner(
            compile_graph(conversion, dtype="bfloat16", threads=1), num_blocks=3
        )
        assert error_of(rounded.forward(plan)[0], expected) < 5e-2


@pytest.mark.parametrize("name", ROTATED)
def test_bfloat16_does_not_round_far_positions(name: str) -> None:
    """Rotary embeddings see distances only, so that far positions give the logits of near ones."""
    model_type, settings = ROTATED[name]
    if "sliding_window" in settings:
        settings = settings | {"sliding_window": 64}
    model = build(model_type, settings | {"max_position_embeddings": 16_384})
    prompt = draw(60)
    expected = own_logits(model, prompt)[-1]
    dtype = "bfloat16" if has_bf16() else "float32"
    runner = OpenVinoRunner(compile_graph(convert(model), dtype=dtype, threads=1), num_blocks=2)
    plan = StepPlan.pack([Chunk(prompt, 0, [0, 1], True)], 32)
    for offset in (0, 1001, 9001):
        far = replace(plan, positions=plan.positions + offset)
        assert error_of(runner.forward(far)[0], expected) < 4e-2


def test_bfloat16_is_refused_where_it_would_round_positions() -> None:
    # Its rotation interleaves dimensions, which OpenVINO does not take for a rotary embedding.
    conversion = convert(build("cohere", GROUPED | {"pad_token_id": 0}))
    OpenVinoRunner(compile_graph(conversion, dtype="float32", threads=1), num_blocks=1)
    if has_bf16():
        with pytest.raises(OpenVinoRefused, match="would round what it computes from positions"):
            OpenVinoRunner(compile_graph(conversion, dtype="bfloat16", threads=1), num_blocks=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_weights_that_sixteen_bits_hold_are_kept_in_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_convert, "_NARROWED_SIZE", 64 * 128)
    model = build(*ARCHITECTURES["qwen3"], dtype=dtype).float()
    # One number that needs more bits keeps its matrix as it is.
    wide = model.model.layers[1].mlp.up_proj.weight
    wide.data[-1, -1] = 1 / 3
    conversion = convert(model)
    narrowed = {
        node.get_friendly_name().split("/")[0].removeprefix("__module.model.")
        for node in conversion.graph.get_ops()
        if node.get_type_name() == "MatMul"
        and "ov_ext::linear" in node.get_friendly_name()
        and node.input_value(1).get_node().get_type_name() == "Convert"
    }
    layers = [f"model.layers.{i}" for i in (0, 1)]
    large = {f"{layer}.{name}" for layer in layers for name in LARGE} | {"lm_head"}
    assert narrowed == large - {"model.layers.1.mlp.up_proj"}
    plan = StepPlan.pack([Chunk(draw(70), 0, [2, 0, 1], 1)], 32)
    runner = OpenVinoRunner(compile_graph(conversion, dtype="float32", threads=1), num_blocks=3)
    assert error_of(runner.forward(plan)[0], own_logits(model, draw(70))[-1]) < 1e-5


def test_converting_leaves_the_model_as_it_was() -> None:
    model = build(*ARCHITECTURES["llama"])
    before = own_logits(model, draw(20))
    convert(model)
    assert torch.equal(own_logits(model, draw(20)), before)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("model_type", "settings", "cause"),
    [
        ("gemma2", GROUPED | {"head_dim": 16, "sliding_window": 256}, "soft-capped"),
        ("falcon", {k: SMALL[k] for k in list(SMALL)[:3]}, "0 of its 2 layers go through"),
        ("stablelm", GROUPED, "does not trace"),
        (
            "gpt_oss",
            GROUPED
            | {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 1, "pad_token_id": 0},
            "takes 's_aux'",
        ),
        (
            "qwen3_moe",
            GROUPED
            | {
                "head_dim": 16,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
            },
            "does not convert",
        ),
    ],
)
def test_what_would_not_be_exact_is_refused_with_the_reason(
    model_type: str, settings: dict[str, Any], cause: str
) -> None:
    with pytest.raises(OpenVinoRefused, match=cause):
        convert(build(model_type, settings))
