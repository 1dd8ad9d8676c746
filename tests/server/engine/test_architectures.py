"""Every architecture on either runner: greedy tokens are those of transformers' `generate`."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bosal_decoding.plan import Plan
from bosal_server.engine.openvino_runtime import OpenVinoRefused
from bosal_server.model import load_model

from .bench import Bench, MakeModel

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    # A tied random head repeats what it reads.
    "tie_word_embeddings": False,
}
GQA = BASE | {"num_key_value_heads": 2}
GEMMA = GQA | {
    "head_dim": 16,
    "sliding_window": 24,
    "layer_types": ["sliding_attention", "full_attention"],
}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GQA),
    "qwen2": ("qwen2", GQA),
    "qwen2-window": (
        "qwen2",
        GQA | {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", GQA | {"head_dim": 16}),
    "mistral": ("mistral", GQA | {"sliding_window": None}),
    "mistral-window": ("mistral", GQA | {"sliding_window": 20}),
    "olmo2": ("olmo2", GQA),
    "gpt_neox": ("gpt_neox", BASE),
    "gpt2": (
        "gpt2",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "tie_word_embeddings": False},
    ),
    "opt": ("opt", BASE | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "phi3": ("phi3", GQA | {"sliding_window": 20}),
    "gemma2": ("gemma2", GEMMA | {"attn_logit_softcapping": 0.4, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", GEMMA),
    "qwen3_moe": (
        "qwen3_moe",
        GQA
        | {
            "head_dim": 16,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "decoder_sparse_step": 1,
        },
    ),
}


# Those that OpenVINO does not compute exactly, and what it says of them.
ON_TORCH = {
    "gemma2": "its attention scores are soft-capped",
    "qwen3_moe": "its graph does not convert: No conversion rule found for operations: aten::",
}


def reference_tokens(folder: Path, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What transformers' own greedy `generate` says, one prompt at a time."""
    load: Any = AutoModelForCausalLM.from_pretrained
    model = load(folder, dtype=torch.float32, attn_implementation="eager").eval()
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
        )
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_tokens_equal_generate(
    name: str,
    save: Callable[..., Path],
    tmp_path: Path,
    make_plan: Callable[..., Plan],
    runner_kind: str,
    engine_model: MakeModel,
) -> None:
    model_type, config = ARCHITECTURES[name]
    folder = save(tmp_path, model_type, **config)
    chance = random.Random(name)
    prompts = [[chance.randrange(1, 400) for _ in range(length)] for length in (3, 41, 75)]
    expected = reference_tokens(folder, prompts, 20)
    assert all(len(set(tokens)) > 3 for tokens in expected), "the model says one thing only"
    loaded = load_model(name, str(folder), dtype="float32")
    if runner_kind == "openvino" and name in ON_TORCH:
        with pytest.raises(OpenVinoRefused, match=ON_TORCH[name]):
            engine_model(loaded)
        return
    bench = Bench({name: engine_model(loaded)}, max_batch_tokens=23)
    plan = make_plan(loaded=loaded)
    answers = []
    for prompt in prompts:
        answers.append(bench.submit(plan, prompt, max_tokens=20))
        bench.step()
    bench.run()
    assert [answer.tokens() for answer in answers] == expected
