"""What choices have read and said, and where the end of it has occurred before.

Kept only for slots whose rules look back: n-grams, DRY, penalties with a window. One table serves
them all: `run[i]`, how many tokens before place i equal the last tokens of the whole history. A new
token extends each run by one or ends it, so a step costs the same in any text.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


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
        # At place i: the longest common suffix of tokens[:i] and tokens[:length].
        self.run = torch.zeros((num_slots, 1), dtype=torch.int32, device=device)
        # Which tokens break runs, for each slot.
        self.breaks = torch.zeros((num_slots, 0), dtype=torch.bool, device=device)
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
        self.is_kept[slot] = False
        for table in (self.length, self.start, self.unbroken, self.run, self.breaks):
            table[slot] = 0
        self.tokens[slot] = -1
        self._bound = int(self.length.max())

    def append(self, slots: Tensor, tokens: Tensor) -> None:
        """Append one token to each of distinct slots [n] that keep their history."""
        if self._bound + 1 > self.tokens.shape[1]:
            self._bound = int(self.length.max())
        self._bound += 1
        self._make_room(self._bound)
        width = self._bound
        self.tokens[slots, self.length[slots]] = tokens.to(self.tokens.dtype)
        said = self.tokens[:, :width].index_select(0, slots)
        extends = said == tokens[:, None].to(said.dtype)
        run = torch.zeros((len(slots), width + 1), dtype=self.run.dtype, device=self.run.device)
        run[:, 1:] = self.run[:, :width].index_select(0, slots).add_(1).mul_(extends)
        self.run[:, : width + 1].index_copy_(0, slots, run)
        self.length[slots] += 1
        self.unbroken[slots] += 1
        if self.breaks.shape[1]:
            self.unbroken[slots] *= ~self.breaks[slots, tokens]

    def retract(self, slot: int, count: int) -> None:
        """Forget the last tokens of a slot."""
        if slot in self._slots:
            kept = int(self.length[slot]) - count
            self._rewrite(slot, self.tokens[slot, :kept].tolist())

    def earlier_ends(self, slots: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """List where the history's last `least` [B] tokens occurred before: row, place behind [m].

        A row whose `least` is below 1 has none.
        """
        width = self._bound
        least = torch.where(least >= 1, least, width + 1).int()
        row, place = (self.run[:, :width].index_select(0, slots) >= least[:, None]).nonzero(
            as_tuple=True
        )
        is_past = place < self.length[slots[row]]
        return row[is_past], place[is_past]

    def repeats(
        self, slots: Tensor, n: Tensor, row: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep of `earlier_ends` what would complete an n-gram [B]; below 2 is off: row, token."""
        slot, n = slots[row], n[row]
        is_one = (n >= 2) & (self.run[slot, place] >= n - 1)
        return row[is_one], self.tokens[slot[is_one], place[is_one]].long()

    def extensions(
        self, slots: Tensor, allowed: Tensor, window: Tensor, row: Tensor, place: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep of `earlier_ends` what went on from them: row, token, length of the end.

        The length is counted without a breaker and within the last `window` [B] tokens (0: all);
        those shorter than `allowed` [B] (0: off) are left out, and so are breakers that follow.
        """
        slot = slots[row]
        run = torch.minimum(self.run[slot, place].long(), self.unbroken[slot])
        run = torch.minimum(run, place - self._first(slots, window)[row])
        allowed = allowed[row]
        is_one = (allowed >= 1) & (run >= allowed)
        row, slot, place, run = row[is_one], slot[is_one], place[is_one], run[is_one]
        token = self.tokens[slot, place].long()
        if self.breaks.shape[1]:
            goes_on = ~self.breaks[slot, token]
            row, token, run = row[goes_on], token[goes_on], run[goes_on]
        return row, token, run

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
        self.run[slot] = 0
        runs = torch.tensor(suffix_runs(history), dtype=torch.int32, device=device)
        self.run[slot, : length + 1] = runs
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
