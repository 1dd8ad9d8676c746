"""Decoding state by slot: the numbers of every choice as struct-of-arrays tensors.

A choice's edited tokens form a short touched list, so a step gathers and scatters only those
entries; a neutral value means off, so any mix of choices is one batched call.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from bosal_kernels.errors import InvalidTouchedTokens
from bosal_kernels.groups import GROUP
from bosal_kernels.params import MAX_RULES, MAX_STAGES, SlotParams, TouchedTokens
from bosal_kernels.scope import ACTIVE, DELTA, ScopeTable

# Every number of a slot: its neutral value and its type. Fields of `SlotParams` have their names.
_NUMBERS: Final[Mapping[str, tuple[float, torch.dtype]]] = MappingProxyType(
    {
        "key": (0, torch.int64),
        "position": (0, torch.int64),
        "repetition": (1, torch.float32),
        "presence": (0, torch.float32),
        "frequency": (0, torch.float32),
        "used_weight": (0, torch.float32),
        "eos_ramp_weight": (0, torch.float32),
        "eos_ramp_over": (1, torch.int64),
        "eos_decay_start": (0, torch.int64),
        "eos_decay_factor": (1, torch.float64),
        "min_tokens": (0, torch.int64),
        "logprobs": (-1, torch.int64),
        # Whether the choice's constraint has begun and not ended; set by whoever runs it.
        "in_constraint": (False, torch.bool),
        "n_touch": (0, torch.int64),
        "n_ban": (0, torch.int64),
    }
)

# What a scope can take away, with its neutral value.
_SCOPED: Final[Mapping[str, float]] = MappingProxyType(
    {
        name: _NUMBERS[name][0]
        for name in SlotParams.__dataclass_fields__
        if name in _NUMBERS and name not in ("key", "logprobs")
    }
    | {"chain_stage": 0, DELTA: 0, ACTIVE: False}
)


class SlotState:
    """The decoding state of all choices, owned by one thread; row s of every tensor is slot s."""

    key: Tensor
    position: Tensor
    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    used_weight: Tensor
    eos_ramp_weight: Tensor
    eos_ramp_over: Tensor
    eos_decay_start: Tensor
    eos_decay_factor: Tensor
    min_tokens: Tensor
    logprobs: Tensor
    in_constraint: Tensor
    n_touch: Tensor
    n_ban: Tensor

    def __init__(
        self,
        *,
        num_slots: int,
        vocab_size: int,
        device: torch.device | str = "cpu",
        touched_capacity: int = 512,
    ) -> None:
        self.num_slots = num_slots
        self.vocab_size = vocab_size
        self.device = torch.device(device)

        def full(shape: tuple[int, ...], value: float, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=self.device)

        for name, (neutral, dtype) in _NUMBERS.items():
            setattr(self, name, full((num_slots,), neutral, dtype))
        self.chain_stage = full((num_slots, MAX_STAGES), 0, torch.int64)
        self.chain_value = full((num_slots, MAX_STAGES), 0, torch.float64)
        self.chain_second = full((num_slots, MAX_STAGES), 0, torch.float64)
        # Whether each rule of the slot's recipe is in force at this step.
        self.active = full((num_slots, MAX_RULES), True, torch.bool)
        self.scopes = ScopeTable(num_slots, self.device, _SCOPED)
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
        # Tokens banned at one output position, by touched index.
        self.ban_index = full((num_slots, 4), 0, torch.int32)
        self.ban_position = full((num_slots, 4), -1, torch.int64)
        self._scratch = full((0, -(-vocab_size // GROUP) * GROUP), 0, torch.float32)
        # Upper bound of n_touch over all slots, kept on the host so that a step need not read it.
        self._touch_bound = 0

    def table(self, name: str) -> Tensor:
        """Return a table of scopable numbers by name, [S, columns], sharing its memory."""
        table: Tensor = getattr(self, name)
        return table if table.dim() == 2 else table[:, None]

    @property
    def touched_capacity(self) -> int:
        return self.t_tok.shape[1]

    def scratch(self, num_rows: int) -> Tensor:
        """Return room for rows padded to whole groups with -inf, reused by every step."""
        if len(self._scratch) < num_rows:
            self._scratch = self._scratch.new_full((num_rows, self._scratch.shape[1]), -torch.inf)
        return self._scratch

    def admit(self, slot: int, params: SlotParams, touched: TouchedTokens) -> None:
        """Give the slot to a new choice; nothing of the previous one remains."""
        count = len(touched.ids)
        if count and not 0 <= int(touched.ids.min()) <= int(touched.ids.max()) < self.vocab_size:
            raise InvalidTouchedTokens(f"token ids must lie in [0, {self.vocab_size})")
        self.free(slot)
        self._make_room(count=count)
        for name in _NUMBERS.keys() & SlotParams.__dataclass_fields__.keys() - {"key"}:
            getattr(self, name)[slot] = getattr(params, name)
        self.key[slot] = _signed64(params.key)
        self.scopes.admit(slot, params.scoped)
        if params.chain:
            chain = torch.tensor(params.chain, dtype=torch.float64, device=self.device)
            self.chain_stage[slot, : len(chain)] = chain[:, 0].long()
            self.chain_value[slot, : len(chain)] = chain[:, 1]
            self.chain_second[slot, : len(chain)] = chain[:, 2]
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

    def advance(self, slots: Tensor, tokens: Tensor) -> None:
        """Append one output token to each of the given, distinct slots."""
        self._make_room(pushes=1)
        index = self._touch(slots, tokens)
        self.t_out_count[slots, index] += 1
        self.position[slots] += 1

    def retract(self, slot: int, tokens: Sequence[int]) -> None:
        """Take back the last output tokens, given in output order.

        Bans at positions behind the new end depended on the text taken back and are dropped.
        """
        for token in reversed(tokens):
            index = int(self.t_pos[slot, token])
            if index < 0 or int(self.t_out_count[slot, index]) < 1:
                raise InvalidTouchedTokens(f"token {token} is not in the output of slot {slot}")
            self.t_out_count[slot, index] -= 1
        self.position[slot] -= len(tokens)
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

    def free(self, slot: int) -> None:
        """Return the slot to its neutral state."""
        for name, (neutral, _) in _NUMBERS.items():
            getattr(self, name)[slot] = neutral
        self.scopes.free(slot)
        self.active[slot] = True
        self.chain_stage[slot] = 0
        self.chain_value[slot] = 0
        self.chain_second[slot] = 0
        self.t_tok[slot] = 0
        self.t_out_count[slot] = 0
        self.t_delta[slot] = 0
        self.t_base[slot] = 0
        self.t_flag[slot] = 0
        self.t_pos[slot] = -1
        self.ban_index[slot] = 0
        self.ban_position[slot] = -1

    def _touch(self, slots: Tensor, tokens: Tensor) -> Tensor:
        """Return the touched index of each (slot, token), pushing tokens that have none."""
        index = self.t_pos[slots, tokens].long()
        is_new = index < 0
        index = torch.where(is_new, self.n_touch[slots], index)
        self.t_tok[slots, index] = tokens.to(self.t_tok.dtype)
        self.t_pos[slots, tokens] = index.to(self.t_pos.dtype)
        self.n_touch[slots] += is_new
        return index

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
        self.t_pos[slot, self.t_tok[slot, kept:count].long()] = -1
        self.t_tok[slot, kept:count] = 0
        self.n_touch[slot] = kept


def _widened(table: Tensor, extra: int, value: int) -> Tensor:
    return torch.nn.functional.pad(table, (0, extra), value=value)


def _signed64(value: int) -> int:
    """Reinterpret an unsigned 64-bit number as the int64 with the same bits."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >> 63 else value
