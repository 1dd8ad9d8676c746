import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bosal_server.engine.kv_pool import LayerShape
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.engine.torch_runner import BLOCK_SIZE, TorchRunner
from bosal_server.errors import ModelUnsupported
from bosal_server.model import LoadedModel, load_model

from .test_architectures import BASE, GQA


@pytest.mark.parametrize(
    ("model_type", "config", "cause"),
    [
        (
            "mamba2",
            {"hidden_size": 64, "num_heads": 8, "head_dim": 16, "num_hidden_layers": 2},
            "linear_attention",
        ),
        (
            "qwen3_next",
            GQA
            | {
                "head_dim": 16,
                "num_hidden_layers": 4,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 2,
                "linear_key_head_dim": 16,
                "linear_value_head_dim": 16,
            },
            "linear_attention",
        ),
        (
            "deepseek_v3",
            BASE
            | {
                "q_lora_rank": 16,
                "kv_lora_rank": 16,
                "qk_rope_head_dim": 8,
                "qk_nope_head_dim": 8,
                "v_head_dim": 16,
                "first_k_dense_replace": 2,
            },
            "MLA",
        ),
        ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4}, "attention interface"),
        (
            "gpt_oss",
            GQA | {"head_dim": 16, "num_local_experts": 2, "sliding_window": 20},
            "'s_aux'",
        ),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(
    model_type: str, config: dict[str, Any], cause: str, save: Callable[..., Path], tmp_path: Path
) -> None:
    folder = save(tmp_path, model_type, **config)
    with pytest.raises(ModelUnsupported, match=cause) as caught:
        load_model("odd", str(folder), dtype="float32")
    assert "odd" in str(caught.value)
    assert caught.value.metadata["architecture"].lower().startswith(model_type.replace("_", "")[:4])


def _runner(loaded: LoadedModel, num_blocks: int = 64) -> TorchRunner:
    return TorchRunner(loaded.model, loaded.layers, num_blocks=num_blocks)


def _logits(loaded: LoadedModel, tokens: list[int]) -> torch.Tensor:
    """Compute the last logits by one plain forward pass of the eager model."""
    model: Any = loaded.model
    model.set_attn_implementation("eager")
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return logits


def test_rows_that_share_a_long_prefix_are_exact(tiny_llama: LoadedModel) -> None:
    chance = random.Random(3)
    stems = [[chance.randrange(400) for _ in range(n * BLOCK_SIZE)] for n in (8, 10)]
    sequences = [
        stems[i % 2] + [chance.randrange(400) for _ in range(chance.randrange(1, 70))]
        for i in range(10)
    ]
    sequences += [[chance.randrange(400) for _ in range(length)] for length in (1, 50, 300)]
    expected = torch.stack([_logits(tiny_llama, tokens) for tokens in sequences])
    runner = _runner(tiny_llama)
    free = list(range(63, -1, -1))
    shared = [[free.pop() for _ in range(len(stem) // BLOCK_SIZE)] for stem in stems]
    tables = []
    for index, tokens in enumerate(sequences):
        table = list(shared[index % 2]) if index < 10 else []
        while len(table) * BLOCK_SIZE < len(tokens):
            table.append(free.pop())
        tables.append(table)
    for tokens, table in zip(sequences, tables, strict=True):
        if len(tokens) > 1:
            runner.forward(StepPlan.pack([Chunk(tokens[:-1], 0, table, False)], BLOCK_SIZE))
    chance.shuffle(order := list(range(len(sequences))))
    last = [Chunk(sequences[i][-1:], len(sequences[i]) - 1, tables[i], True) for i in order]
    actual = runner.forward(StepPlan.pack(last, BLOCK_SIZE))
    torch.testing.assert_close(actual, expected[order], rtol=1e-4, atol=1e-5)


def test_what_a_block_held_before_does_not_matter(tiny_llama: LoadedModel) -> None:
    runner = _runner(tiny_llama, num_blocks=4)
    chunks = [Chunk([5, 6, 7], 0, [2], True), Chunk([9] * 40, 0, [0, 1], True)]
    clean = runner.forward(StepPlan.pack(chunks, BLOCK_SIZE))
    for layer in runner._pool.layers:
        layer.fill_(torch.nan)
    dirty = runner.forward(StepPlan.pack(chunks, BLOCK_SIZE))
    assert torch.equal(clean, dirty)
    more = [Chunk([8], 3, [2], True), Chunk([1], 40, [0, 1], True)]
    assert runner.forward(StepPlan.pack(more, BLOCK_SIZE)).isfinite().all()


def test_a_step_without_logits_returns_no_rows(tiny_llama: LoadedModel) -> None:
    runner = _runner(tiny_llama)
    logits = runner.forward(StepPlan.pack([Chunk([1, 2, 3], 0, [0], False)], BLOCK_SIZE))
    assert logits.shape == (0, runner.vocab_size)
    assert logits.dtype == torch.float32


def test_a_runner_says_what_it_is(tiny_llama: LoadedModel) -> None:
    runner = _runner(tiny_llama, num_blocks=7)
    assert (runner.kind, runner.dtype, runner.device) == ("torch", "float32", "cpu")
    assert (runner.num_blocks, runner.block_size, runner.vocab_size) == (7, 32, 400)
    assert tiny_llama.layers == (LayerShape(num_kv_heads=2, head_dim=16),) * 2
