"""Where each token occurs in the histories of slots: all but the last tokens in sorted order."""

import torch
from torch import Tensor

from bosal_kernels.groups import sparse_places

# Tokens that are looked through one by one before they are sorted in, whole words of flags.
_TAIL = 256
# More than any token.
_NO_TOKEN = torch.iinfo(torch.int32).max


class Occurrences:
    """Row s of every tensor is slot s: its history's tokens sorted, ties by place, and a tail."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self._sorted = torch.full((num_slots, 0), _NO_TOKEN, dtype=torch.int32, device=device)
        self._places = torch.zeros((num_slots, 0), dtype=torch.int32, device=device)
        # How many tokens are sorted, and those behind them, -1 where there are none yet.
        self._num_sorted = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self._tail = torch.full((num_slots, _TAIL), -1, dtype=torch.int32, device=device)
        # Upper bound of the tails' lengths, kept on the host so that a step need not read them.
        self._bound = 0

    def rewrite(self, slot: int, tokens: Tensor, places: Tensor) -> None:
        """Make these the tokens [L] of a slot's whole history, sorted, and their places."""
        missing = len(tokens) - self._sorted.shape[1]
        if missing > 0:
            extra = max(missing, self._sorted.shape[1])
            self._sorted = torch.nn.functional.pad(self._sorted, (0, extra), value=_NO_TOKEN)
            self._places = torch.nn.functional.pad(self._places, (0, extra))
        self._sorted[slot] = _NO_TOKEN
        self._sorted[slot, : len(tokens)] = tokens
        self._places[slot, : len(tokens)] = places
        self._num_sorted[slot] = len(tokens)
        self._tail[slot] = -1

    def retract(self, slot: int, length: int) -> None:
        """Leave the first tokens of a slot's history alone."""
        count = int(self._num_sorted[slot])
        if length >= count:
            self._tail[slot, length - count :] = -1
        else:
            tokens, places = self._sorted[slot, :count], self._places[slot, :count]
            is_left = places < length
            self.rewrite(slot, tokens[is_left], places[is_left])

    def append(self, slots: Tensor, tokens: Tensor, said: Tensor, length: Tensor) -> None:
        """Append one token to each of distinct slots [n], whose histories are `said` [S, W].

        `length` [S] is how much of those there was before.
        """
        if self._bound == _TAIL:
            self._sort_in(said, length)
        self._bound += 1
        place = length.take(slots) - self._num_sorted.take(slots)
        self._tail[slots, place] = tokens.to(self._tail.dtype)

    def find(self, slots: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """List where histories of slots [n] hold a token each [n]: row, place [m]."""
        wanted = torch.full_like(self._num_sorted, -1, dtype=torch.int32)
        wanted[slots] = tokens.to(wanted.dtype)
        # Of all slots, so that nothing is copied: a search looks at few tokens.
        first = torch.searchsorted(self._sorted, wanted[:, None])[:, 0].take(slots)
        last = torch.searchsorted(self._sorted, wanted[:, None], right=True)[:, 0].take(slots)
        number = last - first
        row = torch.arange(len(slots), device=slots.device).repeat_interleave(number)
        skipped = first - number.cumsum(0) + number
        at = torch.arange(len(row), device=slots.device) + skipped.take(row)
        place = self._places[slots.take(row), at].long()
        tail = self._tail.index_select(0, slots) == tokens[:, None].to(self._tail.dtype)
        late, behind = sparse_places(tail)
        behind += self._num_sorted.take(slots).take(late)
        return torch.cat([row, late]), torch.cat([place, behind])

    def _sort_in(self, said: Tensor, length: Tensor) -> None:
        """Sort the tails that are long; then all are short."""
        tails = (length - self._num_sorted).tolist()
        for slot, tail in enumerate(tails):
            if tail > _TAIL // 2:
                tokens, places = said[slot, : int(length[slot])].sort(stable=True)
                self.rewrite(slot, tokens, places.int())
                tails[slot] = 0
        self._bound = max(tails)
