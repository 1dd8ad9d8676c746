"""The tokens that each choice edits, as short lists: a step gathers and scatters only those.

Every edited token has a place in its slot's list, which kernels find by a table and skip by a bit.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_kernels.errors import InvalidTouchedTokens
from bosal_kernels.numbers import SlotNumbers
from bosal_kernels.params import TouchedTokens
from bosal_kernels.transfer import on_device, sent


class TouchedLists(SlotNumbers):
    """Row s of every tensor is slot s; entries at and beyond `n_touch` are neutral."""

    def __init__(
        self,
        num_slots: int,
        vocab_size: int,
        device: torch.device,
        *,
        capacity: int,
        packs_touched: bool,
    ) -> None:
        """List nothing yet; kernels need the bits that `packs_touched` asks for."""
        super().__init__(num_slots, device)
        self.vocab_size = vocab_size
        self.device = device

        def full(width: int, value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((num_slots, width), value, dtype=dtype, device=device)

        self.t_tok = full(capacity, 0, torch.int32)
        self.t_out_count = full(capacity, 0, torch.int32)
        self.t_delta = full(capacity, 0, torch.float32)
        # Deltas without the weights that are scoped.
        self.t_base = full(capacity, 0, torch.float32)
        self.t_flag = full(capacity, 0, torch.int32)
        # Token -> index in the touched list, or -1.
        self.t_pos = full(vocab_size, -1, torch.int32)
        # Whether a token is in the touched list, one bit each: kernels stream these.
        self.touched_bits: Tensor | None = None
        if packs_touched:
            self.touched_bits = full(-(-vocab_size // 32), 0, torch.int32)
        # Upper bounds of n_touch, kept on the host so that a step need not read it.
        self._bounds = [0] * num_slots
        # Slots that may list anything, or once did.
        self._listing: set[int] = set()

    @property
    def touched_capacity(self) -> int:
        return self.t_tok.shape[1]

    def touch(self, slots: Tensor, tokens: Tensor) -> None:
        """List tokens that nothing edits yet, so that they can be; distinct pairs, both [n].

        Reads back how many there are: the torch path alone comes here.
        """
        is_new = self.t_pos[slots, tokens] < 0
        if not bool(is_new.any()):
            return
        slots, order = slots[is_new].sort(stable=True)
        tokens = tokens[is_new][order]
        # The place of each among the new tokens of its slot.
        rank = torch.arange(len(slots), device=self.device) - torch.searchsorted(slots, slots)
        which, counts = torch.unique(slots, return_counts=True)
        for slot, count in zip(which.tolist(), counts.tolist(), strict=True):
            self._make_room(slot, count)
        index = self.n_touch[slots] + rank
        self.t_tok[slots, index] = tokens.to(self.t_tok.dtype)
        self.t_pos[slots, tokens] = index.to(self.t_pos.dtype)
        self.n_touch.index_add_(0, slots, torch.ones_like(slots))
        self._mark(slots, tokens, 1)

    def _fill(self, slot: int, touched: TouchedTokens) -> None:
        """List a slot's first tokens, which are distinct and in the vocabulary."""
        count = len(touched.ids)
        if not count:
            return
        self._make_room(slot, count)
        tokens = on_device(touched.ids, self.device)
        self.n_touch[slot] = count
        self.t_tok[slot, :count] = tokens
        self.t_base[slot, :count] = on_device(touched.deltas, self.device, torch.float32)
        self.t_delta[slot, :count] = self.t_base[slot, :count]
        self.t_flag[slot, :count] = on_device(touched.flags, self.device, torch.int32)
        self.t_pos[slot, tokens] = torch.arange(count, dtype=torch.int32, device=self.device)
        self._mark(torch.full_like(tokens, slot), tokens, 1)

    def _clear(self, slot: int) -> None:
        if slot not in self._listing:
            return
        self._listing.remove(slot)
        self.t_tok[slot] = 0
        self.t_out_count[slot] = 0
        self.t_delta[slot] = 0
        self.t_base[slot] = 0
        self.t_flag[slot] = 0
        self.t_pos[slot] = -1
        if self.touched_bits is not None:
            self.touched_bits[slot] = 0
        self._bounds[slot] = 0

    def _count(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """Count an output token of each of distinct slots."""
        where, said = sent([slots, tokens], self.device)
        index = self._push(slots, where, said)
        self.t_out_count[where, index] += 1

    def _count_all(self, slot: int, tokens: Sequence[int]) -> None:
        """Count output tokens of one slot."""
        counts = Counter(tokens)
        said = on_device(list(counts), self.device)
        self.touch(torch.full_like(said, slot), said)
        number = on_device(list(counts.values()), self.device, torch.int32)
        self.t_out_count[slot, self.t_pos[slot, said].long()] += number

    def _discount(self, slot: int, tokens: Sequence[int]) -> None:
        for token in reversed(tokens):
            index = int(self.t_pos[slot, token])
            if index < 0 or int(self.t_out_count[slot, index]) < 1:
                raise InvalidTouchedTokens(f"token {token} is not in the output of slot {slot}")
            self.t_out_count[slot, index] -= 1

    def _push(self, slots: Sequence[int], where: Tensor, tokens: Tensor) -> Tensor:
        """Return the touched index of one token of each of distinct slots, listing new ones.

        `where` and `tokens` [n] are on the device, the former the slots once more.
        """
        for slot in slots:
            self._make_room(slot, 1)
        index = self.t_pos[where, tokens].long()
        is_new = index < 0
        index = torch.where(is_new, self.n_touch[where], index)
        self.t_tok[where, index] = tokens.to(self.t_tok.dtype)
        self.t_pos[where, tokens] = index.to(self.t_pos.dtype)
        self.n_touch[where] += is_new
        self._mark(where, tokens, is_new)
        return index

    def _mark(self, slots: Tensor, tokens: Tensor, step: int | Tensor) -> None:
        """Add to the bits of distinct pairs (slot, token), [n] each: 1 sets, -1 clears, 0 leaves.

        A bit is set only where it is clear and cleared only where it is set, so nothing carries.
        """
        if self.touched_bits is not None:
            bit = torch.ones_like(tokens, dtype=torch.int32) << (tokens & 31).int()
            self.touched_bits.index_put_((slots, tokens >> 5), bit * step, accumulate=True)

    def _make_room(self, slot: int, pushes: int) -> None:
        """Let a slot's list take more entries; double what all have if it is too short.

        No list is longer than the vocabulary, however often its tokens are said again.
        """
        self._listing.add(slot)
        self._bounds[slot] = min(self._bounds[slot] + pushes, self.vocab_size)
        missing = self._bounds[slot] - self.touched_capacity
        if missing > 0:
            extra = max(missing, self.touched_capacity)
            self.t_tok = widened(self.t_tok, extra, 0)
            self.t_out_count = widened(self.t_out_count, extra, 0)
            self.t_delta = widened(self.t_delta, extra, 0)
            self.t_base = widened(self.t_base, extra, 0)
            self.t_flag = widened(self.t_flag, extra, 0)

    def _drop_neutral_tail(self, slot: int, banned: Tensor) -> None:
        """Remove entries from the end of the touched list that no longer edit anything.

        Those at `banned` [n] still do.
        """
        count = int(self.n_touch[slot])
        edits = (
            (self.t_out_count[slot, :count] != 0)
            | (self.t_delta[slot, :count] != 0)
            | (self.t_flag[slot, :count] != 0)
        )
        edits[banned] = True
        kept = int(edits.nonzero().max()) + 1 if bool(edits.any()) else 0
        dropped = self.t_tok[slot, kept:count].long()
        self.t_pos[slot, dropped] = -1
        self._mark(torch.full_like(dropped, slot), dropped, -1)
        self.t_tok[slot, kept:count] = 0
        self.n_touch[slot] = kept
        self._bounds[slot] = kept


def widened(table: Tensor, extra: int, value: int) -> Tensor:
    """Return a table with more columns."""
    return torch.nn.functional.pad(table, (0, extra), value=value)
