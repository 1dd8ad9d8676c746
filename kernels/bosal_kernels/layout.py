"""Decoding state by slot: the numbers of every choice as struct-of-arrays tensors.

A choice's edited tokens form a short touched list, so a step gathers and scatters only those
entries; a neutral value means off, so any mix of choices is one batched call.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bosal_kernels.allow import AllowTable
from bosal_kernels.errors import InvalidTouchedTokens
from bosal_kernels.history import HistoryTable
from bosal_kernels.mirostat import MirostatTable
from bosal_kernels.numbers import SCOPED, SlotNumbers
from bosal_kernels.params import (
    MAX_RULES,
    MAX_STAGES,
    SlotParams,
    Stage,
    TokenFlag,
    TouchedTokens,
)
from bosal_kernels.scope import ScopeTable


class SlotState(SlotNumbers):
    """The decoding state of all choices, owned by one thread; row s of every tensor is slot s."""

    def __init__(
        self,
        *,
        num_slots: int,
        vocab_size: int,
        device: torch.device | str = "cpu",
        touched_capacity: int = 512,
        packs_touched: bool = False,
    ) -> None:
        self.num_slots = num_slots
        self.vocab_size = vocab_size
        self.device = torch.device(device)

        def full(shape: tuple[int, ...], value: float, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=self.device)

        super().__init__(num_slots, self.device)
        self.chain_stage = full((num_slots, MAX_STAGES), 0, torch.int64)
        self.chain_value = full((num_slots, MAX_STAGES), 0, torch.float64)
        self.chain_second = full((num_slots, MAX_STAGES), 0, torch.float64)
        # Whether each rule of the slot's recipe is in force at this step.
        self.active = full((num_slots, MAX_RULES), True, torch.bool)
        self.scopes = ScopeTable(num_slots, self.device, SCOPED)
        self.history = HistoryTable(num_slots, vocab_size, self.device)
        self.mirostat = MirostatTable(num_slots, self.device)
        self.allowed = AllowTable(num_slots, vocab_size, self.device)
        # Whether the slot's output is in its touched list, counted.
        self.is_counting = full((num_slots,), False, torch.bool)
        # Touched lists; entries at and beyond n_touch are neutral.
        touched = (num_slots, touched_capacity)
        self.t_tok = full(touched, 0, torch.int32)
        self.t_out_count = full(touched, 0, torch.int32)
        self.t_delta = full(touched, 0, torch.float32)
        # Deltas without the weights that are scoped.
        self.t_base = full(touched, 0, torch.float32)
        self.t_flag = full(touched, 0, torch.int32)
        # Token -> index in the touched list, or -1.
        self.t_pos = full((num_slots, vocab_size), -1, torch.int32)
        # Whether a token is in the touched list, one bit each: kernels stream these.
        self.touched_bits: Tensor | None = None
        if packs_touched:
            self.touched_bits = full((num_slots, -(-vocab_size // 32)), 0, torch.int32)
        # Tokens banned at one output position, by touched index.
        self.ban_index = full((num_slots, 4), 0, torch.int32)
        self.ban_position = full((num_slots, 4), -1, torch.int64)
        # Upper bound of n_touch over all slots, kept on the host so that a step need not read it.
        self._touch_bound = 0

    def table(self, name: str) -> Tensor:
        """Return a table of scopable numbers by name, [S, columns], sharing its memory."""
        if name == "allows":
            return self.allowed.is_on
        table: Tensor = getattr(self, name)
        return table if table.dim() == 2 else table[:, None]

    @property
    def touched_capacity(self) -> int:
        return self.t_tok.shape[1]

    def admit(
        self,
        slot: int,
        params: SlotParams,
        touched: TouchedTokens,
        *,
        instruction: Sequence[int] = (),
        breakers: Sequence[int] = (),
    ) -> None:
        """Give the slot to a new choice; nothing of the previous one remains.

        `instruction` is what rules that look back see before the output; they do not reach over
        `breakers`. Both are looked at only if there are such rules.
        """
        # Kernels list nothing themselves: what may be repeated is listed from the start, and what
        # is said as it is said.
        is_listed = params.keeps_history and self.touched_bits is not None
        if params.counts_history or is_listed:
            listed = list(dict.fromkeys(instruction))
            touched = touched.merge(TouchedTokens.of(listed, flags=TokenFlag.LISTED))
        count = len(touched.ids)
        if count and not 0 <= int(touched.ids.min()) <= int(touched.ids.max()) < self.vocab_size:
            raise InvalidTouchedTokens(f"token ids must lie in [0, {self.vocab_size})")
        self.free(slot)
        self._make_room(count=count)
        self.set_numbers(slot, params)
        self.scopes.admit(slot, params.scoped)
        now_and_then = {value.column for value in params.scoped if value.param == "allows"}
        always = [column not in now_and_then for column in range(len(params.allowed))]
        self.allowed.admit(slot, params.allowed, always)
        if params.chain:
            chain = torch.tensor(params.chain, dtype=torch.float64, device=self.device)
            self.chain_stage[slot, : len(chain)] = chain[:, 0].long()
            self.chain_value[slot, : len(chain)] = chain[:, 1]
            self.chain_second[slot, : len(chain)] = chain[:, 2]
        if params.keeps_history:
            self.history.admit(slot, instruction, breakers)
        for stage, target, _ in params.chain:
            if stage == Stage.MIROSTAT:
                self.mirostat.admit(slot, target)
            elif stage == Stage.DYNAMIC_TEMPERATURE:
                self._users["last_temperature"].add(slot)
        if params.counts_output or is_listed:
            self.is_counting[slot] = True
            self._users["is_counting"].add(slot)
        self.n_touch[slot] = count
        self.t_tok[slot, :count] = touched.ids.to(self.t_tok)
        self.t_base[slot, :count] = touched.deltas.to(self.device)
        self.t_delta[slot, :count] = self.t_base[slot, :count]
        self.t_flag[slot, :count] = touched.flags.to(self.t_flag)
        self.t_pos[slot, touched.ids.to(self.device)] = torch.arange(
            count, dtype=torch.int32, device=self.device
        )
        if int((self.t_pos[slot] >= 0).sum()) != count:
            self.free(slot)
            raise InvalidTouchedTokens("token ids must be unique")
        tokens = touched.ids.to(self.device)
        self._mark(torch.full_like(tokens, slot), tokens, 1)

    def advance(self, slots: Tensor, tokens: Tensor) -> None:
        """Append one output token to each of the given, distinct slots."""
        if self.is_used("is_counting"):
            self._count(slots, tokens)
        if self.history.is_used:
            keeps = self.history.is_kept[slots]
            self.history.append(slots[keeps], tokens[keeps])
        if self.mirostat.is_used:
            self.mirostat.advance(slots, self.position[slots])
        self.position[slots] += 1

    def retract(self, slot: int, tokens: Sequence[int]) -> None:
        """Take back the last output tokens, given in output order.

        Bans at positions behind the new end depended on the text taken back and are dropped.
        """
        if slot in self._users["is_counting"]:
            self._discount(slot, tokens)
        self.position[slot] -= len(tokens)
        self.history.retract(slot, len(tokens))
        self._drop_bans_behind(slot, int(self.position[slot]))
        self._drop_neutral_tail(slot)

    def ban_at(self, slot: int, position: int, tokens: Sequence[int]) -> None:
        """Make tokens illegal at one output position only."""
        first = int(self.n_ban[slot])
        missing = first + len(tokens) - self.ban_index.shape[1]
        if missing > 0:
            extra = max(missing, self.ban_index.shape[1])
            self.ban_index = _widened(self.ban_index, extra, 0)
            self.ban_position = _widened(self.ban_position, extra, -1)
        self._make_room(pushes=len(tokens))
        where = torch.tensor([slot], device=self.device)
        for offset, token in enumerate(tokens, start=first):
            index = self._touch(where, torch.tensor([token], device=self.device))
            self.ban_index[slot, offset] = index[0].int()
            self.ban_position[slot, offset] = position
        self.n_ban[slot] = first + len(tokens)
        self._users["n_ban"].add(slot)

    def touch(self, slots: Tensor, tokens: Tensor) -> None:
        """List tokens that nothing edits yet, so that they can be; distinct pairs, both [n]."""
        is_new = self.t_pos[slots, tokens] < 0
        if not bool(is_new.any()):
            return
        slots, order = slots[is_new].sort(stable=True)
        tokens = tokens[is_new][order]
        # The place of each among the new tokens of its slot.
        rank = torch.arange(len(slots), device=self.device) - torch.searchsorted(slots, slots)
        self._make_room(pushes=int(rank.max()) + 1)
        index = self.n_touch[slots] + rank
        self.t_tok[slots, index] = tokens.to(self.t_tok.dtype)
        self.t_pos[slots, tokens] = index.to(self.t_pos.dtype)
        self.n_touch.index_add_(0, slots, torch.ones_like(slots))
        self._mark(slots, tokens, 1)

    def free(self, slot: int) -> None:
        """Return the slot to its neutral state."""
        self.clear_numbers(slot)
        self.scopes.free(slot)
        self.history.free(slot)
        self.mirostat.free(slot)
        self.allowed.free(slot)
        self.active[slot] = True
        self.is_counting[slot] = False
        self.chain_stage[slot] = 0
        self.chain_value[slot] = 0
        self.chain_second[slot] = 0
        self.t_tok[slot] = 0
        self.t_out_count[slot] = 0
        self.t_delta[slot] = 0
        self.t_base[slot] = 0
        self.t_flag[slot] = 0
        self.t_pos[slot] = -1
        if self.touched_bits is not None:
            self.touched_bits[slot] = 0
        self.ban_index[slot] = 0
        self.ban_position[slot] = -1

    def _count(self, slots: Tensor, tokens: Tensor) -> None:
        """Count output tokens of slots, where these are counted."""
        counting = self.is_counting.take(slots)
        slots, tokens = slots[counting], tokens[counting]
        self._make_room(pushes=1)
        index = self._touch(slots, tokens)
        self.t_out_count[slots, index] += 1

    def _discount(self, slot: int, tokens: Sequence[int]) -> None:
        for token in reversed(tokens):
            index = int(self.t_pos[slot, token])
            if index < 0 or int(self.t_out_count[slot, index]) < 1:
                raise InvalidTouchedTokens(f"token {token} is not in the output of slot {slot}")
            self.t_out_count[slot, index] -= 1

    def _touch(self, slots: Tensor, tokens: Tensor) -> Tensor:
        """Return the touched index of each (slot, token), pushing tokens that have none."""
        index = self.t_pos[slots, tokens].long()
        is_new = index < 0
        index = torch.where(is_new, self.n_touch[slots], index)
        self.t_tok[slots, index] = tokens.to(self.t_tok.dtype)
        self.t_pos[slots, tokens] = index.to(self.t_pos.dtype)
        self.n_touch[slots] += is_new
        self._mark(slots, tokens, is_new)
        return index

    def _mark(self, slots: Tensor, tokens: Tensor, step: int | Tensor) -> None:
        """Add to the bits of distinct pairs (slot, token), [n] each: 1 sets, -1 clears, 0 leaves.

        A bit is set only where it is clear and cleared only where it is set, so nothing carries.
        """
        if self.touched_bits is not None:
            bit = torch.ones_like(tokens, dtype=torch.int32) << (tokens & 31).int()
            self.touched_bits.index_put_((slots, tokens >> 5), bit * step, accumulate=True)

    def _make_room(self, *, pushes: int = 0, count: int = 0) -> None:
        """Let touched lists take `pushes` more entries and hold `count`; double if needed."""
        if self._touch_bound + pushes > self.touched_capacity:
            self._touch_bound = int(self.n_touch.max())
        self._touch_bound = max(self._touch_bound + pushes, count)
        missing = self._touch_bound - self.touched_capacity
        if missing > 0:
            extra = max(missing, self.touched_capacity)
            self.t_tok = _widened(self.t_tok, extra, 0)
            self.t_out_count = _widened(self.t_out_count, extra, 0)
            self.t_delta = _widened(self.t_delta, extra, 0)
            self.t_base = _widened(self.t_base, extra, 0)
            self.t_flag = _widened(self.t_flag, extra, 0)

    def _drop_bans_behind(self, slot: int, position: int) -> None:
        """Forget the bans at positions greater than `position`."""
        count = int(self.n_ban[slot])
        if count == 0:
            return
        kept = (self.ban_position[slot, :count] <= position).nonzero().squeeze(1)
        index, positions = self.ban_index[slot, kept], self.ban_position[slot, kept]
        self.ban_index[slot] = 0
        self.ban_position[slot] = -1
        self.ban_index[slot, : len(kept)] = index
        self.ban_position[slot, : len(kept)] = positions
        self.n_ban[slot] = len(kept)

    def _drop_neutral_tail(self, slot: int) -> None:
        """Remove entries from the end of the touched list that no longer edit anything."""
        count = int(self.n_touch[slot])
        edits = (
            (self.t_out_count[slot, :count] != 0)
            | (self.t_delta[slot, :count] != 0)
            | (self.t_flag[slot, :count] != 0)
        )
        edits[self.ban_index[slot, : int(self.n_ban[slot])].long()] = True
        kept = int(edits.nonzero().max()) + 1 if bool(edits.any()) else 0
        dropped = self.t_tok[slot, kept:count].long()
        self.t_pos[slot, dropped] = -1
        self._mark(torch.full_like(dropped, slot), dropped, -1)
        self.t_tok[slot, kept:count] = 0
        self.n_touch[slot] = kept


def _widened(table: Tensor, extra: int, value: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, extra), value=value)
