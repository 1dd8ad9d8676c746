"""At each place of a history, how long the end is that was there before.

At place i < length of a slot: the longest common suffix of tokens[:i] and tokens[:length]. Two ways
to keep them: listed where there are any, which is little work for a processor but waits for a
device; or as whole rows, which is a pass over the history and waits for nothing.
"""

from array import array
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bosal_kernels.occurrences import Occurrences
from bosal_kernels.suffixes import Ints, common_suffixes, suffix_runs
from bosal_kernels.transfer import on_device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rewritten:
    """A whole history [L], int32, and what was found in it; slots that begin alike share it."""

    history: Tensor
    # At each place [L], int32.
    runs: Tensor
    # The history's tokens sorted, ties by place, and their places; [L] each.
    sorted: tuple[Tensor, Tensor]


class Runs(Protocol):
    """Row s of the table is slot s."""

    table: Tensor  # [S, W] int32; 0 at and beyond the length

    def extend(self, slots: Tensor, tokens: Tensor, said: Tensor, length: Tensor) -> None:
        """Go on with one token for each of distinct slots [n].

        Histories are `said` [S, W]; `length` [S] is how much of them there was before.
        """
        ...

    def read(self, history: Ints) -> Rewritten:
        """Find what `rewrite` needs to know of a history [L]."""
        ...

    def rewrite(self, slot: int, rewritten: Rewritten) -> None:
        """Make this the history of a slot, with its runs."""
        ...

    def retract(self, slot: int, said: "array[int]", count: int) -> None:
        """Take the last tokens of a slot back; `said` is what is left."""
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

    def read(self, history: Ints) -> Rewritten:
        device = self.table.device
        said = on_device(history.copy(), device, torch.int32)
        runs = on_device(suffix_runs(history), device, torch.int32)
        # Nothing is looked up.
        return Rewritten(history=said, runs=runs, sorted=(said[:0], said[:0]))

    def rewrite(self, slot: int, rewritten: Rewritten) -> None:
        self.table[slot] = 0
        self.table[slot, : len(rewritten.runs)] = rewritten.runs

    def retract(self, slot: int, said: "array[int]", count: int) -> None:
        runs = on_device(suffix_runs(np.asarray(said)), self.table.device, torch.int32)
        self.table[slot, : len(said)] = runs
        self.table[slot, len(said) : len(said) + count] = 0

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

    def read(self, history: Ints) -> Rewritten:
        device = self.table.device
        # A copy: who says more would write into it.
        said = on_device(history.copy(), device, torch.int32)
        tokens, places = said.sort(stable=True)
        runs = on_device(suffix_runs(history), device, torch.int32)
        return Rewritten(history=said, runs=runs, sorted=(tokens, places.int()))

    def rewrite(self, slot: int, rewritten: Rewritten) -> None:
        self._occurrences.rewrite(slot, *rewritten.sorted)
        place = rewritten.runs.nonzero().squeeze(1)
        self._list(slot, place, rewritten.runs[place])

    def retract(self, slot: int, said: "array[int]", count: int) -> None:
        self._occurrences.retract(slot, len(said))
        ends = np.zeros(0, np.int64)
        if said:
            where, last = on_device([[slot], [said[-1]]], self.table.device)
            _, place = self._occurrences.find(where, last)
            # The last token's own place is no earlier one.
            ends = place.numpy(force=True)[:-1] + 1
        runs = common_suffixes(np.asarray(said), ends)
        device = self.table.device
        self._list(slot, on_device(ends, device), on_device(runs.copy(), device, torch.int32))

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
        nothing = self.table[slot, :0]
        self._occurrences.rewrite(slot, nothing, nothing)

    def _list(self, slot: int, place: Tensor, run: Tensor) -> None:
        """Make these all the runs of a slot."""
        where = torch.full_like(place, slot)
        self._forget(where.new_tensor([slot]))
        self.table[slot, place] = run
        self._ends = torch.cat([self._ends[0], where]), torch.cat([self._ends[1], place])

    def _forget(self, slots: Tensor) -> None:
        is_stale = torch.zeros(len(self.table), dtype=torch.bool, device=slots.device)
        is_stale[slots] = True
        slot, place = self._ends
        stale = is_stale.take(slot)
        if not bool(stale.any()):
            return
        self.table[slot[stale], place[stale]] = 0
        self._ends = slot[~stale], place[~stale]
