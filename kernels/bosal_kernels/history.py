"""What choices have read and said, and where the end of it has occurred before.

Kept only for slots whose rules look back: n-grams, DRY, penalties with a window. The ends serve
them all: the places behind the earlier occurrences of the history's last token, and the run of
each, how many tokens before it equal the last ones of the whole history (`runs`).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from bosal_kernels.runs import Rewritten, runs_of
from bosal_kernels.transfer import on_device, sent

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Read:
    """A history that was read whole; the choices of a request begin with one and the same."""

    history: tuple[int, ...]
    said: "array[int]"
    rewritten: Rewritten


class HistoryTable:
    """Histories by slot; row s of every tensor is slot s. Entries at and beyond length are -1."""

    def __init__(
        self, num_slots: int, vocab_size: int, device: torch.device, *, is_for_kernels: bool = False
    ) -> None:
        """Hold nothing yet; for kernels runs are whole rows, and appending waits for nothing."""
        self.length = torch.zeros(num_slots, dtype=torch.int64, device=device)
        # Place of the first output token; the instruction lies before it.
        self.start = torch.zeros(num_slots, dtype=torch.int64, device=device)
        # Tokens since the last breaker.
        self.unbroken = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.tokens = torch.full((num_slots, 0), -1, dtype=torch.int32, device=device)
        # Which tokens break runs, for each slot.
        self.breaks = torch.zeros((num_slots, 0), dtype=torch.bool, device=device)
        self._runs = runs_of(num_slots, device, is_whole=is_for_kernels)
        self._vocab_size = vocab_size
        # By slot its history, its breakers and where they stand: kept on the host too, so that a
        # step need not read them.
        self._said: dict[int, array[int]] = {}
        self._breakers: dict[int, frozenset[int]] = {}
        self._broken: dict[int, list[int]] = {}
        self._last_read: _Read | None = None

    @property
    def is_used(self) -> bool:
        """Whether any slot keeps its history."""
        return bool(self._said)

    @property
    def run(self) -> Tensor:
        """At place i < length: the longest common suffix of tokens[:i] and tokens[:length]."""
        return self._runs.table

    def __contains__(self, slot: int) -> bool:
        return slot in self._said

    def admit(self, slot: int, instruction: Sequence[int], breakers: Sequence[int]) -> None:
        """Keep a slot's history from its instruction on; runs never reach over a breaker."""
        self.start[slot] = len(instruction)
        self._breakers[slot] = frozenset(breakers)
        if breakers:
            if self.breaks.shape[1] == 0:
                self.breaks = self.breaks.new_zeros((len(self.length), self._vocab_size))
            self.breaks[slot, on_device(breakers, self.breaks.device)] = True
        history = tuple(instruction)
        if self._last_read is None or self._last_read.history != history:
            self._last_read = self._read(history)
        self._rewrite(slot, self._last_read)

    def free(self, slot: int) -> None:
        """Forget a slot."""
        if slot not in self._said:
            return
        del self._said[slot], self._breakers[slot], self._broken[slot]
        self._runs.free(slot)
        for table in (self.length, self.start, self.unbroken, self.breaks):
            table[slot] = 0
        self.tokens[slot] = -1

    def append(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """Append one token to each of distinct slots that keep their history."""
        for slot, token in zip(slots, tokens, strict=True):
            if token in self._breakers[slot]:
                self._broken[slot].append(len(self._said[slot]))
            self._said[slot].append(token)
        self._make_room(self._longest)
        where, new = sent([slots, tokens], self.tokens.device)
        self._runs.extend(where, new, self.tokens, self.length)
        self.tokens[where, self.length[where]] = new.to(self.tokens.dtype)
        self.length[where] += 1
        self.unbroken[where] += 1
        if self.breaks.shape[1]:
            self.unbroken[where] *= ~self.breaks[where, new]

    def extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Append many tokens to a slot, if it keeps its history."""
        if slot in self._said:
            self._rewrite(slot, self._read((*self._said[slot], *tokens)))

    def retract(self, slot: int, count: int) -> None:
        """Forget the last tokens of a slot; no more of its history is read than where they end."""
        if slot not in self._said or not count:
            return
        said, broken = self._said[slot], self._broken[slot]
        length = len(said) - count
        del said[length:]
        while broken and broken[-1] >= length:
            broken.pop()
        self._runs.retract(slot, said, count)
        self.tokens[slot, length : length + count] = -1
        self.length[slot] = length
        self.unbroken[slot] = length - 1 - (broken[-1] if broken else -1)

    def earlier_ends(self, slots: Tensor, least: Tensor) -> Ends:
        """List where the history's last `least` [B] tokens occurred before.

        A row whose `least` is below 1 has none.
        """
        row, place = self._runs.at_least(slots, least.masked_fill(least < 1, _NO_RUN))
        slot = slots.take(row)
        return Ends(
            row=row,
            slot=slot,
            place=place,
            run=self.run[slot, place].long(),
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
        places = torch.arange(self._longest, device=slots.device)
        counted = self._is_past(slots, self._longest) & (places >= first[:, None])
        row, place = counted.nonzero(as_tuple=True)
        column = touched_index[slots[row], self.tokens[slots[row], place].long()].long()
        counts = torch.bincount(row * width + column, minlength=len(slots) * width)
        return counts.view(len(slots), width).int()

    @property
    def _longest(self) -> int:
        return max(map(len, self._said.values()), default=0)

    def _is_past(self, slots: Tensor, width: int) -> Tensor:
        places = torch.arange(width, device=slots.device)
        return places < self.length[slots, None]

    def _first(self, slots: Tensor, window: Tensor) -> Tensor:
        """Return the first place within the last `window` tokens; 0 is all."""
        return torch.where(window > 0, self.length[slots] - window, 0).clamp(min=0)

    def _read(self, history: tuple[int, ...]) -> _Read:
        """Find out what there is to know about a whole history."""
        said = array("i", history)
        return _Read(history=history, said=said, rewritten=self._runs.read(np.asarray(said)))

    def _rewrite(self, slot: int, read: _Read) -> None:
        """Make this the whole history of a slot."""
        length = len(read.said)
        is_broken = np.isin(np.asarray(read.said), list(self._breakers[slot]))
        broken = np.flatnonzero(is_broken).tolist()
        self._said[slot], self._broken[slot] = read.said[:], broken
        self._make_room(self._longest)
        self.tokens[slot] = -1
        self.tokens[slot, :length] = read.rewritten.history
        self._runs.rewrite(slot, read.rewritten)
        self.length[slot] = length
        self.unbroken[slot] = length - 1 - (broken[-1] if broken else -1)

    def _make_room(self, width: int) -> None:
        missing = width - self.tokens.shape[1]
        if missing > 0:
            extra = max(missing, self.tokens.shape[1], 64)
            self.tokens = torch.nn.functional.pad(self.tokens, (0, extra), value=-1)
            self._runs.table = torch.nn.functional.pad(self._runs.table, (0, extra))
