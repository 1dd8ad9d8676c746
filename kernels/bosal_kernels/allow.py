"""Sets of allowed tokens by slot, and the masks of legal tokens they make.

In torch alone for now: fused kernels see them as packed masks like a constraint's.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.transfer import on_device

# Sets that one slot may have; they are intersected.
MAX_ALLOWED = 8


class AllowTable:
    """Row s of every tensor is slot s; the set in column k is in force where `is_on` says so."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.is_on = torch.zeros((num_slots, MAX_ALLOWED), dtype=torch.bool, device=device)
        self.bits = torch.zeros((num_slots, 0, 0), dtype=torch.int32, device=device)
        self._num_words = -(-vocab_size // 32)
        self._slots: set[int] = set()

    def admit(self, slot: int, sets: Sequence[Sequence[int]], is_on: Sequence[bool]) -> None:
        """Give the slot its sets, packed words each."""
        if not sets:
            return
        self._slots.add(slot)
        if self.bits.shape[1] == 0:
            shape = (len(self.is_on), MAX_ALLOWED, self._num_words)
            self.bits = self.bits.new_zeros(shape)
        for column, words in enumerate(sets):
            self.bits[slot, column] = 0
            self.bits[slot, column, : len(words)] = on_device(words, self.bits.device, torch.int32)
            self.is_on[slot, column] = is_on[column]

    def free(self, slot: int) -> None:
        """Forget a slot."""
        if slot in self._slots:
            self._slots.remove(slot)
            self.is_on[slot] = False
            self.bits[slot] = 0

    def within(self, legal: LegalTokens | None, slots: Tensor) -> LegalTokens | None:
        """Narrow a batch's legal tokens to what the sets in force allow; slots are [B]."""
        if not self._slots:
            return legal
        is_on = self.is_on[slots]
        rows = is_on.any(1).nonzero().squeeze(1)
        if len(rows) == 0:
            return legal
        everything = torch.full(
            (len(slots), self._num_words), -1, dtype=torch.int32, device=slots.device
        )
        if legal is not None:
            # A matcher's masks may be one word wider.
            everything[legal.rows] = legal.bits[:, : self._num_words]
            is_held = is_on.any(1)
            is_held[legal.rows] = True
            rows = is_held.nonzero().squeeze(1)
        for column in is_on.any(0).nonzero().squeeze(1).tolist():
            mine = is_on[:, column].nonzero().squeeze(1)
            everything[mine] &= self.bits[slots[mine], column]
        return LegalTokens(rows, everything[rows])


def packed(tokens: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
    """Pack token ids into signed 32-bit words, bit t % 32 of word t // 32."""
    ids = np.asarray(tokens, np.int64)
    num_words = int(ids.max(initial=-1)) // 32 + 1
    flags = np.zeros(num_words * 32, np.uint8)
    flags[ids] = 1
    return tuple(np.packbits(flags, bitorder="little").view("<i4").tolist())
