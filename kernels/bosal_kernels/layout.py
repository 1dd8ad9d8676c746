"""Decoding state by slot: the numbers of every choice as struct-of-arrays tensors.

A choice's edited tokens form a short touched list, so a step gathers and scatters only those
entries; a neutral value means off, so any mix of choices is one batched call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

import torch
from torch import Tensor

from bosal_kernels.errors import InvalidSlotParams, InvalidTouchedTokens
from bosal_kernels.groups import GROUP

MAX_STAGES = 12


class Stage(IntEnum):
    """Codes of the truncation chain, in their default order; the numbering is public."""

    NONE = 0
    TEMPERATURE = 1
    TOP_K = 2
    TOP_P = 3
    MIN_P = 4
    TYPICAL = 5
    TOP_N_SIGMA = 6
    EPSILON = 7
    ETA = 8
    XTC = 9


class TokenFlag(IntFlag):
    """What a touched token is, besides its delta."""

    NONE = 0
    EOS = 1
    BANNED = 2
    # Counted by the repetition penalty although not in the output.
    IN_PROMPT = 4
    # Counted by the used-token weight although not in the output.
    USED_AT_START = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotParams:
    """One choice's numbers; every default is neutral.

    `chain` holds (stage, value, second value) in order: TEMPERATURE T, TOP_K k, TOP_P p, MIN_P p,
    TYPICAL mass, TOP_N_SIGMA n, EPSILON eps, ETA eps, XTC (probability, threshold). The second
    value is XTC's alone and 0 elsewhere.
    """

    # Noise key, see `noise.choice_key`.
    key: int
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    # Added once to every token that is already in the output.
    used_weight: float = 0.0
    # z[eos] += weight * min(output length, over) / over.
    eos_ramp_weight: float = 0.0
    eos_ramp_over: int = 1
    min_tokens: int = 0
    chain: tuple[tuple[Stage, float, float], ...] = ()
    # -1: off, 0: the chosen token, n: the n best as well.
    logprobs: int = -1

    def __post_init__(self) -> None:
        if len(self.chain) > MAX_STAGES:
            raise InvalidSlotParams(f"a chain has at most {MAX_STAGES} stages: {len(self.chain)}")
        if [stage for stage, _, _ in self.chain].count(Stage.TEMPERATURE) > 1:
            raise InvalidSlotParams("a chain has at most one temperature")
        if self.eos_ramp_over < 1:
            raise InvalidSlotParams(f"eos_ramp_over must be at least 1: {self.eos_ramp_over}")
        if not self.repetition > 0:
            raise InvalidSlotParams(f"repetition must be positive: {self.repetition}")


@dataclass(frozen=True, slots=True, eq=False)
class TouchedTokens:
    """Tokens whose logits a choice edits from its first step: unique ids, deltas and flags."""

    ids: Tensor  # [n] int64, unique
    deltas: Tensor  # [n] float32
    flags: Tensor  # [n] int32, TokenFlag bits

    @classmethod
    def of(
        cls,
        ids: Sequence[int] = (),
        deltas: Sequence[float] | float = 0.0,
        flags: Sequence[int] | int = 0,
    ) -> Self:
        """Build from plain numbers; a repeated token gets its deltas summed, its flags united."""
        count = len(ids)
        delta_list = [deltas] * count if isinstance(deltas, int | float) else list(deltas)
        flag_list = [flags] * count if isinstance(flags, int) else list(flags)
        if not len(delta_list) == len(flag_list) == count:
            raise InvalidTouchedTokens("ids, deltas and flags differ in length")
        merged: dict[int, tuple[float, int]] = {}
        for token, delta, flag in zip(ids, delta_list, flag_list, strict=True):
            old_delta, old_flag = merged.get(token, (0.0, 0))
            merged[token] = (old_delta + delta, old_flag | int(flag))
        return cls(
            ids=torch.tensor(list(merged), dtype=torch.int64),
            deltas=torch.tensor([delta for delta, _ in merged.values()], dtype=torch.float32),
            flags=torch.tensor([flag for _, flag in merged.values()], dtype=torch.int32),
        )

    def merge(self, other: Self) -> Self:
        """Return the union: deltas of a shared token are added, its flags united."""
        return type(self).of(
            self.ids.tolist() + other.ids.tolist(),
            self.deltas.tolist() + other.deltas.tolist(),
            self.flags.tolist() + other.flags.tolist(),
        )


class SlotState:
    """The decoding state of all choices, owned by one thread; row s of every tensor is slot s."""

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

        slots = (num_slots,)
        self.key = full(slots, 0, torch.int64)
        self.position = full(slots, 0, torch.int64)
        self.repetition = full(slots, 1, torch.float32)
        self.presence = full(slots, 0, torch.float32)
        self.frequency = full(slots, 0, torch.float32)
        self.used_weight = full(slots, 0, torch.float32)
        self.eos_ramp_weight = full(slots, 0, torch.float32)
        self.eos_ramp_over = full(slots, 1, torch.int64)
        self.min_tokens = full(slots, 0, torch.int64)
        self.logprobs = full(slots, -1, torch.int64)
        self.chain_stage = full((num_slots, MAX_STAGES), 0, torch.int64)
        self.chain_value = full((num_slots, MAX_STAGES), 0, torch.float64)
        self.chain_second = full((num_slots, MAX_STAGES), 0, torch.float64)
        # Touched lists; entries at and beyond n_touch are neutral.
        touched = (num_slots, touched_capacity)
        self.n_touch = full(slots, 0, torch.int64)
        self.t_tok = full(touched, 0, torch.int32)
        self.t_out_count = full(touched, 0, torch.int32)
        self.t_delta = full(touched, 0, torch.float32)
        self.t_flag = full(touched, 0, torch.int32)
        # Token -> index in the touched list, or -1.
        self.t_pos = full((num_slots, vocab_size), -1, torch.int32)
        # Tokens banned at one output position, by touched index.
        self.n_ban = full(slots, 0, torch.int64)
        self.ban_index = full((num_slots, 4), 0, torch.int32)
        self.ban_position = full((num_slots, 4), -1, torch.int64)
        self._scratch = full((0, -(-vocab_size // GROUP) * GROUP), 0, torch.float32)
        # Upper bound of n_touch over all slots, kept on the host so that a step need not read it.
        self._touch_bound = 0

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
        self.key[slot] = _signed64(params.key)
        self.repetition[slot] = params.repetition
        self.presence[slot] = params.presence
        self.frequency[slot] = params.frequency
        self.used_weight[slot] = params.used_weight
        self.eos_ramp_weight[slot] = params.eos_ramp_weight
        self.eos_ramp_over[slot] = params.eos_ramp_over
        self.min_tokens[slot] = params.min_tokens
        self.logprobs[slot] = params.logprobs
        if params.chain:
            chain = torch.tensor(params.chain, dtype=torch.float64, device=self.device)
            self.chain_stage[slot, : len(chain)] = chain[:, 0].long()
            self.chain_value[slot, : len(chain)] = chain[:, 1]
            self.chain_second[slot, : len(chain)] = chain[:, 2]
        self.n_touch[slot] = count
        self.t_tok[slot, :count] = touched.ids.to(self.t_tok)
        self.t_delta[slot, :count] = touched.deltas.to(self.device)
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

    def free(self, slot: int) -> None:
        """Return the slot to its neutral state."""
        self.key[slot] = 0
        self.position[slot] = 0
        self.repetition[slot] = 1
        self.presence[slot] = 0
        self.frequency[slot] = 0
        self.used_weight[slot] = 0
        self.eos_ramp_weight[slot] = 0
        self.eos_ramp_over[slot] = 1
        self.min_tokens[slot] = 0
        self.logprobs[slot] = -1
        self.chain_stage[slot] = 0
        self.chain_value[slot] = 0
        self.chain_second[slot] = 0
        self.n_touch[slot] = 0
        self.t_tok[slot] = 0
        self.t_out_count[slot] = 0
        self.t_delta[slot] = 0
        self.t_flag[slot] = 0
        self.t_pos[slot] = -1
        self.n_ban[slot] = 0
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
