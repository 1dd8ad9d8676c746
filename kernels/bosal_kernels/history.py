"""What choices have read and said, and where the end of it has occurred before.

Kept only for slots whose rules look back: n-grams, DRY, penalties with a window. One list serves
them all: the ends, the places behind the earlier occurrences of the history's last token, and the
run of each, how many tokens before it equal the last ones of the whole history. A new token's ends
are looked up in sorted tokens; their runs go on from those of the places before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bosal_kernels.occurrences import Occurrences

# No history is so long.
_NO_RUN: Final = torch.iinfo(torch.int32).max


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Places behind earlier occurrences of what a history ends with, [m] each."""

    row: Tensor  # in the batch
    slot: Tensor
    place: Tensor
    run: Tensor  # how many tokens before the place equal the last ones
    token: Tensor  # that followed there


class HistoryTable:
    """Histories by slot; row s of every tensor is slot s. Entries at and beyond length are -1."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.length = torch.zeros(num_slots, dtype=torch.int64, device=device)
        # Place of the first output token; the instruction lies before it.
        self.start = torch.zeros(num_slots, dtype=torch.int64, device=device)
        # Tokens since the last breaker.
        self.unbroken = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.is_kept = torch.zeros(num_slots, dtype=torch.bool, device=device)
        self.tokens = torch.full((num_slots, 0), -1, dtype=torch.int32, device=device)
        # At place i < length: the longest common suffix of tokens[:i] and tokens[:length].
        self.run = torch.zeros((num_slots, 0), dtype=torch.int32, device=device)
        # Where it is not 0: slots and places, [n] each, a slot's in order.
        nowhere = torch.zeros(0, dtype=torch.int64, device=device)
        self._ends = nowhere, nowhere
        # Which tokens break runs, for each slot.
        self.breaks = torch.zeros((num_slots, 0), dtype=torch.bool, device=device)
        self._occurrences = Occurrences(num_slots, device)
        self._vocab_size = vocab_size
        self._slots: set[int] = set()
        # Upper bound of the lengths, kept on the host so that a step need not read them.
        self._bound = 0

    @property
    def is_used(self) -> bool:
        """Whether any slot keeps its history."""
        return bool(self._slots)

    def admit(self, slot: int, instruction: Sequence[int], breakers: Sequence[int]) -> None:
        """Keep a slot's history from its instruction on; runs never reach over a breaker."""
        self._slots.add(slot)
        self.is_kept[slot] = True
        self.start[slot] = len(instruction)
        if breakers:
            if self.breaks.shape[1] == 0:
                self.breaks = self.breaks.new_zeros((len(self.length), self._vocab_size))
            self.breaks[slot, torch.tensor(breakers, device=self.breaks.device)] = True
        self._rewrite(slot, list(instruction))

    def free(self, slot: int) -> None:
        """Forget a slot."""
        if slot not in self._slots:
            return
        self._slots.remove(slot)
        self._forget_ends(torch.tensor([slot], device=self.tokens.device))
        self.is_kept[slot] = False
        self._occurrences.rewrite(slot, self.tokens[slot, :0])
        for table in (self.length, self.start, self.unbroken, self.breaks):
            table[slot] = 0
        self.tokens[slot] = -1
        self._bound = int(self.length.max())

    def append(self, slots: Tensor, tokens: Tensor) -> None:
        """Append one token to each of distinct slots [n] that keep their history."""
        if self._bound + 1 > self.tokens.shape[1]:
            self._bound = int(self.length.max())
        self._bound += 1
        self._make_room(self._bound)
        row, before = self._occurrences.find(slots, tokens)
        slot, place = slots.index_select(0, row), before + 1
        # Runs of the ends before, 0 at other places.
        run = self.run[slot, before] + 1
        self._forget_ends(slots)
        self.run[slot, place] = run
        self._ends = torch.cat([self._ends[0], slot]), torch.cat([self._ends[1], place])
        self.tokens[slots, self.length[slots]] = tokens.to(self.tokens.dtype)
        self._occurrences.append(slots, tokens, self.tokens, self.length)
        self.length[slots] += 1
        self.unbroken[slots] += 1
        if self.breaks.shape[1]:
            self.unbroken[slots] *= ~self.breaks[slots, tokens]

    def retract(self, slot: int, count: int) -> None:
        """Forget the last tokens of a slot."""
        if slot in self._slots:
            kept = int(self.length[slot]) - count
            self._rewrite(slot, self.tokens[slot, :kept].tolist())

    def earlier_ends(self, slots: Tensor, least: Tensor) -> Ends:
        """List where the history's last `least` [B] tokens occurred before.

        A row whose `least` is below 1 has none.
        """
        row_of = torch.full_like(self.length, -1)
        row_of[slots] = torch.arange(len(slots), device=slots.device)
        slot, place = self._ends
        row, run = row_of.take(slot), self.run[slot, place]
        # Of slots that are not in the batch the last limit is read, to no effect.
        limit = least.masked_fill(least < 1, _NO_RUN).take(row)
        is_one = (run >= limit).logical_and_(row >= 0).nonzero().squeeze(1)
        slot, place = slot.take(is_one), place.take(is_one)
        return Ends(
            row=row.take(is_one),
            slot=slot,
            place=place,
            run=run.take(is_one).long(),
            token=self.tokens[slot, place].long(),
        )

    def repeats(self, n: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
        """Return what would complete an n-gram of rows [B]; below 2 is off: row, token [m]."""
        n = n.take(ends.row)
        is_one = (n >= 2) & (ends.run >= n - 1)
        return ends.row[is_one], ends.token[is_one]

    def extensions(
        self, allowed: Tensor, window: Tensor, ends: Ends
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what went on from ends: row, token, length of the end [m].

        The length is counted without a breaker and within the last `window` [B] tokens (0: all);
        those shorter than `allowed` [B] (0: off) are left out, and so are breakers that follow.
        """
        slot, allowed, window = ends.slot, allowed.take(ends.row), window.take(ends.row)
        run = torch.minimum(ends.run, self.unbroken.take(slot))
        run = torch.minimum(run, ends.place - self._first(slot, window))
        is_one = (allowed >= 1) & (run >= allowed)
        if self.breaks.shape[1]:
            is_one &= ~self.breaks[slot, ends.token]
        return ends.row[is_one], ends.token[is_one], run[is_one]

    def counts(
        self,
        slots: Tensor,
        window: Tensor,
        with_instruction: Tensor,
        touched_index: Tensor,
        width: int,
    ) -> Tensor:
        """Count the tokens of histories by their touched index (SlotState.t_pos), int32 [n, width].

        Of slots [n], within the last `window` [n] tokens (0: all), of instruction and output or of
        the output alone.
        """
        first = self._first(slots, window)
        first = torch.where(with_instruction > 0, first, torch.maximum(first, self.start[slots]))
        places = torch.arange(self._bound, device=slots.device)
        counted = self._is_past(slots, self._bound) & (places >= first[:, None])
        row, place = counted.nonzero(as_tuple=True)
        column = touched_index[slots[row], self.tokens[slots[row], place].long()].long()
        counts = torch.bincount(row * width + column, minlength=len(slots) * width)
        return counts.view(len(slots), width).int()

    def _forget_ends(self, slots: Tensor) -> None:
        is_stale = torch.zeros_like(self.is_kept)
        is_stale[slots] = True
        slot, place = self._ends
        stale = is_stale.take(slot)
        self.run[slot[stale], place[stale]] = 0
        self._ends = slot[~stale], place[~stale]

    def _is_past(self, slots: Tensor, width: int) -> Tensor:
        places = torch.arange(width, device=slots.device)
        return places < self.length[slots, None]

    def _first(self, slots: Tensor, window: Tensor) -> Tensor:
        """Return the first place within the last `window` tokens; 0 is all."""
        return torch.where(window > 0, self.length[slots] - window, 0).clamp(min=0)

    def _rewrite(self, slot: int, history: list[int]) -> None:
        """Make this the whole history of a slot."""
        length = len(history)
        self._bound = max(self._bound, length)
        self._make_room(self._bound)
        device = self.tokens.device
        self.tokens[slot] = -1
        self.tokens[slot, :length] = torch.tensor(history, dtype=torch.int32, device=device)
        self._occurrences.rewrite(slot, self.tokens[slot, :length])
        runs = torch.tensor(suffix_runs(history)[:length], dtype=torch.int32, device=device)
        place = runs.nonzero().squeeze(1)
        where = torch.full_like(place, slot)
        self._forget_ends(where.new_tensor([slot]))
        self.run[slot, place] = runs[place]
        self._ends = torch.cat([self._ends[0], where]), torch.cat([self._ends[1], place])
        self.length[slot] = length
        unbroken = length
        if self.breaks.shape[1] and length:
            broken = self.breaks[slot, self.tokens[slot, :length].long()].nonzero()
            unbroken = length - 1 - int(broken.max()) if len(broken) else length
        self.unbroken[slot] = unbroken

    def _make_room(self, width: int) -> None:
        missing = width - self.tokens.shape[1]
        if missing > 0:
            extra = max(missing, self.tokens.shape[1], 64)
            self.tokens = torch.nn.functional.pad(self.tokens, (0, extra), value=-1)
            self.run = torch.nn.functional.pad(self.run, (0, extra))


def suffix_runs(history: Sequence[int]) -> list[int]:
    """Return for each place the longest common suffix of what lies before it and of the whole.

    The last place is that of the next token. Linear: the Z-function of the reversed sequence.
    """
    length = len(history)
    backwards = history[::-1]
    run = [0] * (length + 1)
    run[length] = length
    left = right = 0
    for at in range(1, length):
        same = min(right - at, run[length - (at - left)]) if at < right else 0
        while at + same < length and backwards[same] == backwards[at + same]:
            same += 1
        if at + same > right:
            left, right = at, at + same
        run[length - at] = same
    return run
