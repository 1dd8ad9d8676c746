"""Mirostat's running limits on surprise, of slots that have one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_kernels import SlotState, on_device


class SurpriseSlots:
    """Reads and writes the limits in a pipeline's state."""

    def __init__(self, state: SlotState) -> None:
        self._state = state

    def limits(self, slots: Sequence[int]) -> Tensor | None:
        """The limits [B] at the slots' positions; None where no slot has one."""
        if not self._state.mirostat.is_used:
            return None
        index = on_device(slots, self._state.device)
        return self._state.mirostat.at(index, self._state.position[index])

    def limit(self, slots: Sequence[int], limits: Tensor) -> None:
        """Give slots the limits [B] that others have learned from the same output."""
        index = on_device(slots, self._state.device)
        self._state.mirostat.put(index, self._state.position[index], limits)

    def learned(self, slot: int) -> Tensor | None:
        """The limits at all positions of a slot's output; None where no slot has one."""
        if not self._state.mirostat.is_used:
            return None
        positions = torch.arange(int(self._state.position[slot]) + 1, device=self._state.device)
        return self._state.mirostat.at(torch.full_like(positions, slot), positions)

    def restore(self, slot: int, limits: Tensor) -> None:
        """Give a slot the limits that the same output has taught before."""
        positions = torch.arange(len(limits), device=self._state.device)
        self._state.mirostat.put(torch.full_like(positions, slot), positions, limits)
