"""Mirostat's running limit on surprise, by slot and output position.

The limit of every position is kept, so taking tokens back needs no arithmetic.
"""

import torch
from torch import Tensor


class MirostatTable:
    """Row s of every tensor is slot s."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        # In bits, at each output position.
        self.limit = torch.zeros((num_slots, 1), dtype=torch.float64, device=device)
        # What the next position's becomes if the drawn token is committed; NaN: as it is.
        self.following = torch.full((num_slots,), torch.nan, dtype=torch.float64, device=device)
        self._slots: set[int] = set()

    @property
    def is_used(self) -> bool:
        """Whether any slot has a limit."""
        return bool(self._slots)

    def admit(self, slot: int, target: float) -> None:
        """Begin with twice the target surprise, in bits."""
        self._slots.add(slot)
        self.limit[slot] = 2 * target
        self.following[slot] = torch.nan

    def free(self, slot: int) -> None:
        """Forget a slot."""
        if slot in self._slots:
            self._slots.remove(slot)
            self.limit[slot] = 0
            self.following[slot] = torch.nan

    def at(self, slots: Tensor, position: Tensor) -> Tensor:
        """Return the limits [n] of slots at their output positions."""
        return self.limit[slots, position.clamp(max=self.limit.shape[1] - 1)]

    def put(self, slots: Tensor, position: Tensor, limit: Tensor) -> None:
        """Set the limits of slots [n] at their output positions."""
        self._reach(int(position.max()))
        self.limit[slots, position] = limit

    def forget(self, slots: Tensor) -> None:
        """Learn nothing from the last draws of slots [n]: other tokens were put in their place."""
        self.following[slots] = torch.nan

    def advance(self, slots: Tensor, position: Tensor) -> None:
        """Carry the limits from `position` [n] to the next one."""
        self._reach(int(position.max()) + 1)
        here, following = self.limit[slots, position], self.following[slots]
        self.limit[slots, position + 1] = torch.where(following.isnan(), here, following)
        self.following[slots] = torch.nan

    def extend(self, slot: int, position: int, count: int) -> None:
        """Carry a slot's limit from a position over so many more."""
        self._reach(position + count)
        here, following = self.limit[slot, position], self.following[slot]
        limit = torch.where(following.isnan(), here, following)
        self.limit[slot, position + 1 : position + count + 1] = limit
        self.following[slot] = torch.nan

    def _reach(self, position: int) -> None:
        """Have room for a position."""
        if position >= self.limit.shape[1]:
            extra = max(position + 1 - self.limit.shape[1], self.limit.shape[1])
            self.limit = torch.nn.functional.pad(self.limit, (0, extra))
