"""Run by its test under Triton's interpreter: the kernel against the torch path, bit for bit."""

import torch

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.bitmask_apply import bitmask_apply

generator = torch.Generator().manual_seed(0)
for size in (1, 31, 32, 33, 100, 4095, 4096, 4097, 9001):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        # Rows of a padded head: adjacent tokens, a longer stride.
        logits = torch.randn(5, size + 3, generator=generator).to(dtype)[:, :size]
        logits[1, 0], logits[3, size - 1] = torch.nan, torch.inf
        rows = torch.tensor([3, 1])
        bits = torch.randint(-(2**31), 2**31, (2, -(-size // 32)), generator=generator).int()
        wanted = logits.float().clone()
        LegalTokens(rows, bits).forbid(wanted)
        bitmask_apply(logits, rows, bits)
        assert torch.equal(logits.float().nan_to_num(nan=7.0), wanted.nan_to_num(nan=7.0))
