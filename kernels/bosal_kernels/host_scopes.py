"""Scoped numbers whose scopes the host can tell: by position and by region, not by any gate.

Whoever draws by kernels alone resolves them before every step, and a device is not waited for: what
is in force changes at few steps, and only then a slot's numbers are written.
"""

from collections.abc import Sequence

import torch

from bosal_kernels.layout import SlotState
from bosal_kernels.scope import DELTA, ScopedValue
from bosal_kernels.transfer import on_device, sent


class HostScopes:
    """Writes scoped numbers into a state, as `resolve` does for the torch path."""

    def __init__(self, state: SlotState) -> None:
        self._state = state
        # What was in force when a slot's numbers were last written here.
        self._written: dict[int, tuple[bool, ...]] = {}

    def forget(self, slots: Sequence[int]) -> None:
        """Take it that others write numbers of slots."""
        for slot in slots:
            self._written.pop(slot, None)

    def resolve(
        self, slots: Sequence[int], positions: Sequence[int], insides: Sequence[bool]
    ) -> None:
        """Write the numbers of slots at their positions, each inside of its constraint or not."""
        for slot, position, inside in zip(slots, positions, insides, strict=True):
            values = self._state.scopes[slot]
            holds = tuple(one.scope.holds_at(position, inside=inside) for one in values)
            if values and self._written.get(slot) != holds:
                self._write(slot, values, holds)
                self._written[slot] = holds

    def _write(self, slot: int, values: Sequence[ScopedValue], holds: Sequence[bool]) -> None:
        state = self._state
        neutral = dict(zip(state.scopes.names, state.scopes.neutral, strict=True))
        numbers: dict[tuple[str, int], float] = {}
        weights: list[tuple[int, float]] = []
        for one, is_on in zip(values, holds, strict=True):
            if one.param == DELTA:
                weights += [(one.column, one.value)] if is_on else []
                continue
            # One place may have a value for each of several scopes; at most one holds.
            place = (one.param, one.column)
            numbers.setdefault(place, neutral[one.param])
            if is_on:
                numbers[place] = one.value
        for (param, column), number in numbers.items():
            state.table(param)[slot, column] = number
        if any(one.param == DELTA for one in values):
            state.t_delta[slot] = state.t_base[slot]
        if weights:
            (tokens,) = sent([[token for token, _ in weights]], state.device)
            added = on_device([weight for _, weight in weights], state.device, torch.float32)
            index = state.t_pos[slot, tokens].long()
            state.t_delta[slot].index_put_((index,), added, accumulate=True)
