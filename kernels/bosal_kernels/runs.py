"""At each place of a history, how long the end is that was there before.

At place i < length of a slot: the longest common suffix of tokens[:i] and tokens[:length]. Two ways
to keep them: listed where there are any, which is little work for a processor but waits for a
device; or as whole rows, which is a pass over the history and waits for nothing.
"""

from typing import Protocol

import torch
from torch import Tensor

from bosal_kernels.occurrences import Occurrences


class Runs(Protocol):
    """Row s of the table is slot s."""

    table: Tensor  # [S, W] int32; 0 at and beyond the length

    def extend(self, slots: Tensor, tokens: Tensor, said: Tensor, length: Tensor) -> None:
        """Go on with one token for each of distinct slots [n].

        Histories are `said` [S, W]; `length` [S] is how much of them there was before.
        """
        ...

    def rewrite(self, slot: int, history: Tensor, runs: Tensor) -> None:
        """Make these the history and the runs [L] of a slot."""
        ...

    def at_least(self, slots: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """List the runs of slots [B] that are neither 0 nor below a limit [B]: row, place [n]."""
        ...

    def free(self, slot: int) -> None:
        """Forget a slot."""
        ...


def runs_of(num_slots: int, device: torch.device, *, is_whole: bool) -> Runs:
    """Return an empty table, of whole rows or listed."""
    return WholeRuns(num_slots, device) if is_whole else ListedRuns(num_slots, device)


def _empty(num_slots: int, device: torch.device) -> Tensor:
    return torch.zeros((num_slots, 0), dtype=torch.int32, device=device)


class WholeRuns:
    """Runs as whole rows."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.table = _empty(num_slots, device)

    def extend(self, slots: Tensor, tokens: Tensor, said: Tensor, length: Tensor) -> None:
        # What is equal at a place goes on from the place before; behind the length nothing is.
        same = said.index_select(0, slots) == tokens[:, None].to(said.dtype)
        before = self.table.index_select(0, slots)
        following = ((before + 1) * same)[:, :-1]
        self.table.index_copy_(0, slots, torch.nn.functional.pad(following, (1, 0)))

    def rewrite(self, slot: int, history: Tensor, runs: Tensor) -> None:
        self.table[slot] = 0
        self.table[slot, : len(runs)] = runs

    def at_least(self, slots: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        found = self.table.index_select(0, slots)
        row, place = ((found >= limit[:, None]) & (found > 0)).nonzero(as_tuple=True)
        return row, place

    def free(self, slot: int) -> None:
        self.table[slot] = 0


class ListedRuns:
    """Runs with a list of where they are not 0; a token's are looked up among sorted tokens."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.table = _empty(num_slots, device)
        # Slots and places, [n] each, a slot's in order.
        nowhere = torch.zeros(0, dtype=torch.int64, device=device)
        self._ends = nowhere, nowhere
        self._occurrences = Occurrences(num_slots, device)

    def extend(self, slots: Tensor, tokens: Tensor, said: Tensor, length: Tensor) -> None:
        row, before = self._occurrences.find(slots, tokens)
        slot, place = slots.index_select(0, row), before + 1
        # Runs of the ends before, 0 at other places.
        run = self.table[slot, before] + 1
        self._forget(slots)
        self.table[slot, place] = run
        self._ends = torch.cat([self._ends[0], slot]), torch.cat([self._ends[1], place])
        self._occurrences.append(slots, tokens, said, length)

    def rewrite(self, slot: int, history: Tensor, runs: Tensor) -> None:
        self._occurrences.rewrite(slot, history)
        place = runs.nonzero().squeeze(1)
        where = torch.full_like(place, slot)
        self._forget(where.new_tensor([slot]))
        self.table[slot, place] = runs[place]
        self._ends = torch.cat([self._ends[0], where]), torch.cat([self._ends[1], place])

    def at_least(self, slots: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        row_of = torch.full((len(self.table),), -1, dtype=torch.int64, device=slots.device)
        row_of[slots] = torch.arange(len(slots), device=slots.device)
        slot, place = self._ends
        row, run = row_of.take(slot), self.table[slot, place]
        # Of slots that are not in the batch the last limit is read, to no effect.
        is_one = (run >= limit.take(row)).logical_and_(row >= 0).nonzero().squeeze(1)
        return row.take(is_one), place.take(is_one)

    def free(self, slot: int) -> None:
        self._forget(torch.tensor([slot], device=self.table.device))
        self._occurrences.rewrite(slot, self.table[slot, :0])

    def _forget(self, slots: Tensor) -> None:
        is_stale = torch.zeros(len(self.table), dtype=torch.bool, device=slots.device)
        is_stale[slots] = True
        slot, place = self._ends
        stale = is_stale.take(slot)
        self.table[slot[stale], place[stale]] = 0
        self._ends = slot[~stale], place[~stale]
