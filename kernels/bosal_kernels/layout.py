"""Decoding state by slot: the numbers of every choice as struct-of-arrays tensors.

A choice's edited tokens form a short touched list, so a step gathers and scatters only those
entries; a neutral value means off, so any mix of choices is one batched call.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from bosal_kernels.allow import AllowTable
from bosal_kernels.errors import InvalidTouchedTokens
from bosal_kernels.history import HistoryTable
from bosal_kernels.mirostat import MirostatTable
from bosal_kernels.numbers import SCOPED
from bosal_kernels.params import (
    MAX_RULES,
    MAX_STAGES,
    SlotParams,
    Stage,
    TokenFlag,
    TouchedTokens,
)
from bosal_kernels.scope import ScopeTable
from bosal_kernels.touched_lists import TouchedLists, widened
from bosal_kernels.transfer import on_device, sent

# Tokens that are appended one by one, side by side with those of other slots.
_FEW: Final = 4


class SlotState(TouchedLists):
    """The decoding state of all choices, owned by one thread; row s of every tensor is slot s.

    On a device neither admission nor the next token waits for it; taking back and banning do.
    """

    def __init__(
        self,
        *,
        num_slots: int,
        vocab_size: int,
        device: torch.device | str = "cpu",
        touched_capacity: int = 512,
        packs_touched: bool = False,
    ) -> None:
        device = torch.device(device)
        super().__init__(
            num_slots,
            vocab_size,
            device,
            capacity=touched_capacity,
            packs_touched=packs_touched,
        )
        self.num_slots = num_slots

        def full(shape: tuple[int, ...], value: float, dtype: torch.dtype) -> Tensor:
            return torch.full(shape, value, dtype=dtype, device=device)

        self.chain_stage = full((num_slots, MAX_STAGES), 0, torch.int64)
        # One table, so that a slot's are one copy.
        self._chain_values = full((2, num_slots, MAX_STAGES), 0, torch.float64)
        self.chain_value, self.chain_second = self._chain_values
        # The slots that have a chain.
        self._chained: set[int] = set()
        # Whether each rule of the slot's recipe is in force at this step.
        self.active = full((num_slots, MAX_RULES), True, torch.bool)
        self.scopes = ScopeTable(num_slots, device, SCOPED)
        self.history = HistoryTable(num_slots, vocab_size, device, is_for_kernels=packs_touched)
        self.mirostat = MirostatTable(num_slots, device)
        self.allowed = AllowTable(num_slots, vocab_size, device)
        # Tokens banned at one output position, by touched index.
        self.ban_index = full((num_slots, 4), 0, torch.int32)
        self.ban_position = full((num_slots, 4), -1, torch.int64)
        # The last slots that were made a tensor, and it.
        self._indexed: tuple[list[int], Tensor] = ([], full((0,), 0, torch.int64))

    def index(self, slots: Sequence[int]) -> Tensor:
        """Return slots as a tensor, not to be changed: most steps are of the same ones."""
        if self._indexed[0] != slots:
            (where,) = sent([slots], self.device)
            self._indexed = (list(slots), where)
        return self._indexed[1]

    def table(self, name: str) -> Tensor:
        """Return a table of scopable numbers by name, [S, columns], sharing its memory."""
        if name == "allows":
            return self.allowed.is_on
        table: Tensor = getattr(self, name)
        return table if table.dim() == 2 else table[:, None]

    @property
    def is_editing(self) -> bool:
        """Whether any slot lists tokens to edit, or may come to."""
        return self.history.is_used or any(self._bounds)

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
        if count and len(torch.unique(touched.ids)) != count:
            raise InvalidTouchedTokens("token ids must be unique")
        self._empty_tables(slot)
        self.set_numbers(slot, params)
        self.scopes.admit(slot, params.scoped)
        now_and_then = {value.column for value in params.scoped if value.param == "allows"}
        always = [column not in now_and_then for column in range(len(params.allowed))]
        self.allowed.admit(slot, params.allowed, always)
        if params.chain:
            stages, *values = zip(*params.chain, strict=True)
            length = len(stages)
            self.chain_stage[slot, :length] = on_device(stages, self.device)
            found = on_device(values, self.device, torch.float64)
            self._chain_values[:, slot, :length] = found
            self._chained.add(slot)
        if params.keeps_history:
            self.history.admit(slot, instruction, breakers)
        for stage, target, _ in params.chain:
            if stage == Stage.MIROSTAT:
                self.mirostat.admit(slot, target)
            elif stage == Stage.DYNAMIC_TEMPERATURE:
                self._users["last_temperature"].add(slot)
        if not params.is_greedy:
            self._users["is_drawing"].add(slot)
        if params.may_be_greedy:
            self._users["is_greedy"].add(slot)
        if params.counts_output or is_listed:
            self._users["is_counting"].add(slot)
        self._fill(slot, touched)

    def append(self, slots: Sequence[int], token_lists: Sequence[Sequence[int]]) -> None:
        """Append output tokens to distinct slots: a few side by side, many of one slot at once."""
        if all(len(tokens) == 1 for tokens in token_lists):
            self.advance(slots, [token for (token,) in token_lists])
            return
        pairs = list(zip(slots, token_lists, strict=True))
        # Where kernels draw, nothing that follows may wait for the device, as many at once would.
        most = _FEW if self.touched_bits is None else math.inf
        few = [pair for pair in pairs if len(pair[1]) <= most]
        for depth in range(max((len(tokens) for _, tokens in few), default=0)):
            deep = [(slot, tokens[depth]) for slot, tokens in few if depth < len(tokens)]
            self.advance(*zip(*deep, strict=True))
        for slot, tokens in pairs:
            if len(tokens) > most:
                self._extend(slot, tokens)

    def advance(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        """Append one output token to each of the given, distinct slots."""
        pairs = list(zip(slots, tokens, strict=True))
        counting = [pair for pair in pairs if pair[0] in self._users["is_counting"]]
        if counting:
            self._count(*zip(*counting, strict=True))
        looking = [pair for pair in pairs if pair[0] in self.history]
        if looking:
            self.history.append(*zip(*looking, strict=True))
        where = self.index(slots)
        if self.mirostat.is_used:
            self.mirostat.advance(where, self.position[where])
        self.position.index_add_(0, where, torch.ones_like(where))

    def retract(self, slot: int, tokens: Sequence[int]) -> None:
        """Take back the last output tokens, given in output order.

        Bans at positions behind the new end depended on the text taken back and are dropped.
        """
        if slot in self._users["is_counting"]:
            self._discount(slot, tokens)
        self.position[slot] -= len(tokens)
        self.history.retract(slot, len(tokens))
        self._drop_bans_behind(slot, int(self.position[slot]))
        banned = self.ban_index[slot, : int(self.n_ban[slot])].long()
        self._drop_neutral_tail(slot, banned)

    def ban_at(self, slot: int, position: int, tokens: Sequence[int]) -> None:
        """Make tokens illegal at one output position only."""
        first = int(self.n_ban[slot])
        missing = first + len(tokens) - self.ban_index.shape[1]
        if missing > 0:
            extra = max(missing, self.ban_index.shape[1])
            self.ban_index = widened(self.ban_index, extra, 0)
            self.ban_position = widened(self.ban_position, extra, -1)
        for offset, token in enumerate(tokens, start=first):
            index = self._push([slot], *sent([[slot], [token]], self.device))
            self.ban_index[slot, offset] = index[0].int()
            self.ban_position[slot, offset] = position
        self.n_ban[slot] = first + len(tokens)
        self._users["n_ban"].add(slot)

    def free(self, slot: int) -> None:
        """Return the slot to its neutral state."""
        self._empty_tables(slot)
        self.clear_numbers(slot)

    def _extend(self, slot: int, tokens: Sequence[int]) -> None:
        """Append many output tokens to one slot, as `advance` does one by one, in one go."""
        if slot in self._users["is_counting"]:
            self._count_all(slot, tokens)
        self.history.extend(slot, tokens)
        if self.mirostat.is_used:
            self.mirostat.extend(slot, int(self.position[slot]), len(tokens))
        self.position[slot] += len(tokens)

    def _empty_tables(self, slot: int) -> None:
        """Forget what a slot has in tables, where it has anything."""
        if self.scopes[slot]:
            # A scope may have written into any of them.
            self.active[slot] = True
            self._chained.add(slot)
        self.scopes.free(slot)
        self.history.free(slot)
        self.mirostat.free(slot)
        self.allowed.free(slot)
        if slot in self._chained:
            self._chained.remove(slot)
            self.chain_stage[slot] = 0
            self._chain_values[:, slot] = 0
        self._clear(slot)
        if slot in self._users["n_ban"]:
            self.ban_index[slot] = 0
            self.ban_position[slot] = -1

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
