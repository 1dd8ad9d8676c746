"""transformers, used as its documentation says: the other side of the engine's ratios."""

from dataclasses import fields
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

PAGE = 64
# Until 5.22 pages were blocks.
_PAGE_SIZE = next(
    one.name for one in fields(ContinuousBatchingConfig) if one.name in ("page_size", "block_size")
)


def generate(model: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """Decode greedily in one static batch; return the number of new tokens."""
    batch = torch.tensor(prompts, device=model.device)
    output = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=model.config.eos_token_id,
    )
    return int(output[:, batch.shape[1] :].numel())


def continuous_batching(model: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """Decode greedily through continuous batching; return the number of new tokens."""
    longest = max(map(len, prompts)) + new_tokens
    blocks = len(prompts) * (-(-longest // PAGE) + 1)
    outputs = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=model.config.eos_token_id,
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=blocks,
            max_batch_tokens=512,
            max_requests_per_batch=len(prompts),
            **{_PAGE_SIZE: PAGE},
        ),
        warmup=False,
    )
    return sum(len(output.generated_tokens) for output in outputs.values())
