"""Numbers that are in force only now and then: by position, by region, by the model's certainty.

A scoped number is rewritten in its slot's row before every step: its value where the scope holds,
the neutral value elsewhere. So whatever reads the slots, a fused kernel too, sees plain numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from math import inf, isnan
from typing import Final

import torch
from torch import Tensor

from bosal_kernels.errors import InvalidSlotParams
from bosal_kernels.transfer import on_device

# An output is never so long.
NO_LIMIT: Final = 2**62
# The parameter name of a weight on one token, and of a rule of the recipe being in force at all.
DELTA: Final = "delta"
ACTIVE: Final = "active"


class Region(IntEnum):
    """Where a slot is with regard to its constraint."""

    ANY = 0
    INSIDE = 1
    OUTSIDE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """When a number is in force; the default is always.

    With L output tokens so far and p the softmax of the row as the model gave it:

        after <= L < until  and  the slot is in `region`
        and  max p < top1_below  and  entropy of p in nats > entropy_above
    """

    after: int = 0
    until: int = NO_LIMIT
    region: Region = Region.ANY
    top1_below: float = inf
    entropy_above: float = -inf

    def __post_init__(self) -> None:
        if not 0 <= self.after < self.until:
            raise InvalidSlotParams(f"a scope from {self.after} to {self.until} is empty")
        if isnan(self.top1_below) or isnan(self.entropy_above):
            raise InvalidSlotParams("a gate must be a number")

    @property
    def is_gated(self) -> bool:
        """Whether the scope depends on the model's row."""
        return self.top1_below < inf or self.entropy_above > -inf

    @property
    def is_always(self) -> bool:
        return self == Scope()

    def holds_at(self, position: int, *, inside: bool) -> bool:
        """Whether it holds where no row was read, after so many output tokens; no gate does."""
        apart = Region.OUTSIDE if inside else Region.INSIDE
        return self.after <= position < self.until and self.region != apart and not self.is_gated

    def covers(self, other: "Scope") -> bool:
        """Whether it surely holds wherever the other may; no gate is sure."""
        is_wide = self.region in (Region.ANY, other.region) and not self.is_gated
        return is_wide and self.after <= other.after and other.until <= self.until

    def overlaps(self, other: "Scope") -> bool:
        """Whether both may hold at one step; gates are taken to."""
        apart = {self.region, other.region} == {Region.INSIDE, Region.OUTSIDE}
        return not apart and self.after < other.until and other.after < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopedValue:
    """One number of a slot under a scope.

    `param` is a field of `SlotParams` (column 0), "chain_stage" (column: the place in the chain),
    DELTA (column: the token) or ACTIVE (column: the rule). Of the values of one place at most one
    scope may hold at a step, weights excepted, which add up.
    """

    param: str
    value: float
    scope: Scope
    column: int = 0


class ScopeTable:
    """The scoped numbers of all slots; row s of every tensor is slot s."""

    def __init__(self, num_slots: int, device: torch.device, names: Mapping[str, float]) -> None:
        """Hold numbers of parameters `names`, each with its neutral value."""
        self.names = tuple(names)
        self.neutral = tuple(names.values())
        self.count = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._codes = {name: code for code, name in enumerate(self.names)}
        self._slots: dict[int, tuple[ScopedValue, ...]] = {}
        self._tables: tuple[Tensor, ...] = ()
        self._grow(0)

    @property
    def is_used(self) -> bool:
        """Whether any slot has a scoped number."""
        return bool(self._slots)

    @property
    def has_gates(self) -> bool:
        """Whether any slot's scope depends on the model's row."""
        return any(value.scope.is_gated for values in self._slots.values() for value in values)

    def __getitem__(self, slot: int) -> tuple[ScopedValue, ...]:
        """The slot's scoped numbers; none where it has none."""
        return self._slots.get(slot, ())

    def admit(self, slot: int, values: tuple[ScopedValue, ...]) -> None:
        """Give the slot its scoped numbers."""
        self.free(slot)
        if not values:
            return
        self._slots[slot] = values
        self._grow(len(values))
        rows = [
            (
                self._codes[value.param],
                value.column,
                value.value,
                value.scope.after,
                value.scope.until,
                int(value.scope.region),
                value.scope.top1_below,
                value.scope.entropy_above,
            )
            for value in values
        ]
        for table, column in zip(self._tables, zip(*rows, strict=True), strict=True):
            table[slot, : len(rows)] = on_device(column, table.device, table.dtype)
        self.count[slot] = len(values)

    def free(self, slot: int) -> None:
        """Take the slot's scoped numbers away."""
        if self._slots.pop(slot, None) is not None:
            self.count[slot] = 0
            for table in self._tables:
                table[slot] = 0

    def entries(self, slots: Tensor) -> tuple[Tensor, ...]:
        """Return the numbers of slots [R], padded: param, column, value and the scopes, [R, W].

        The scopes are after, until, region, top1_below, entropy_above.
        """
        width = int(self.count[slots].max()) if len(slots) else 0
        return tuple(table[slots, :width] for table in self._tables)

    def _grow(self, width: int) -> None:
        if not self._tables:
            dtypes = (*[torch.int64] * 2, torch.float64, *[torch.int64] * 3, *[torch.float64] * 2)
            shape = (len(self.count), 4)
            self._tables = tuple(
                torch.zeros(shape, dtype=dtype, device=self.count.device) for dtype in dtypes
            )
        missing = width - self._tables[0].shape[1]
        if missing > 0:
            self._tables = tuple(
                torch.nn.functional.pad(table, (0, missing)) for table in self._tables
            )
