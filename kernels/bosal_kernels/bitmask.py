"""Packed masks of legal tokens: one bit per token, and their application to rows of logits."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LegalTokens:
    """The rows of a batch that hold to a hard language, and what is legal in each.

    Token t is bit t % 32 of word t // 32, and 1 is legal; words are read as unsigned.
    """

    rows: Tensor  # [R] int64, places in the batch, distinct
    bits: Tensor  # [R, ceil(V / 32)] int32

    def forbid(self, logits: Tensor) -> None:
        """Set the illegal tokens of the rows to -inf in place, in logits [B, V]."""
        if logits.is_cuda and find_spec("triton") is not None:
            # Triton exists on Linux only, and is slow to import.
            from bosal_kernels.bitmask_apply import bitmask_apply

            bitmask_apply(logits, self.rows, self.bits)
            return
        table = _byte_table(logits.device)
        vocab_size = logits.shape[1]
        # Row by row on a CPU: what a row expands to stays in its cache.
        step = 1 if logits.device.type == "cpu" else max(len(self.rows), 1)
        for start in range(0, len(self.rows), step):
            octets = self.bits[start : start + step].view(torch.uint8).int()
            penalty = table.index_select(0, octets.view(-1)).view(len(octets), -1)
            rows = self.rows[start : start + step]
            if step == 1:
                logits[int(rows[0])].add_(penalty[0, :vocab_size])
            else:
                logits.index_add_(0, rows, penalty[:, :vocab_size])

    def illegal(self, tokens: Tensor) -> Tensor:
        """Say for tokens [B, W] of the whole batch which are illegal in their row."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        mine = tokens[self.rows]
        words = self.bits.gather(1, mine >> 5)
        found[self.rows] = ((words >> (mine & 31).int()) & 1) == 0
        return found


@lru_cache(maxsize=8)
def _byte_table(device: torch.device) -> Tensor:
    """Return 0 for a set and -inf for a clear bit, for every byte, [256, 8] float32."""
    byte = torch.arange(256, device=device)[:, None]
    is_set = (byte >> torch.arange(8, device=device)) & 1
    return torch.where(is_set > 0, 0.0, -torch.inf)
