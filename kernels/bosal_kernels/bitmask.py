"""Packed masks of legal tokens: one bit per token, and their application to rows of logits."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch
from torch import Tensor

# Tokens are set one by one where they are less than this part of the vocabulary: as in a string,
# where most is legal, and between two values, where little is.
_FEW: Final = 32


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

            # Launches go to the current device, whichever holds the tensors.
            with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
                bitmask_apply(logits, self.rows, self.bits)
            return
        if logits.device.type == "cpu":
            # Row by row: what a row expands to stays in its cache.
            for row, bits in zip(self.rows.tolist(), self.bits, strict=True):
                _forbid(logits[row], bits)
            return
        logits.index_add_(0, self.rows, _penalties(self.bits, logits.shape[1]))

    def illegal(self, tokens: Tensor) -> Tensor:
        """Say for tokens [B, W] of the whole batch which are illegal in their row."""
        found = torch.zeros_like(tokens, dtype=torch.bool)
        mine = tokens[self.rows]
        words = self.bits.gather(1, mine >> 5)
        found[self.rows] = ((words >> (mine & 31).int()) & 1) == 0
        return found


def _forbid(row: Tensor, bits: Tensor) -> None:
    """Add -inf to the illegal tokens of one row [V] on the host, in place."""
    (vocab_size,) = row.shape
    octets = bits.view(torch.uint8).numpy()
    is_legal = np.unpackbits(octets, count=vocab_size, bitorder="little").view(np.bool_)
    num_legal = int(np.count_nonzero(is_legal))
    # What is no number stays none, so that it is seen behind the mask too.
    if vocab_size - num_legal < vocab_size // _FEW:
        illegal = torch.from_numpy(np.flatnonzero(~is_legal))
        row.index_add_(0, illegal, row.new_full((len(illegal),), -torch.inf))
    elif num_legal < vocab_size // _FEW:
        places = torch.from_numpy(np.flatnonzero(is_legal))
        kept = row.take(places)
        row.add_(-torch.inf).index_copy_(0, places, kept)
    else:
        row.add_(_penalties(bits[None], vocab_size)[0])


def _penalties(bits: Tensor, vocab_size: int) -> Tensor:
    """Return 0 for the legal and -inf for the illegal tokens of masks [R, words], [R, V]."""
    octets = bits.view(torch.uint8).int()
    penalties = _byte_table(bits.device).index_select(0, octets.view(-1))
    return penalties.view(len(bits), -1)[:, :vocab_size]


@lru_cache(maxsize=8)
def _byte_table(device: torch.device) -> Tensor:
    """Return 0 for a set and -inf for a clear bit, for every byte, [256, 8] float32."""
    byte = torch.arange(256, device=device)[:, None]
    is_set = (byte >> torch.arange(8, device=device)) & 1
    return torch.where(is_set > 0, 0.0, -torch.inf)
