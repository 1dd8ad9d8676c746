"""The tokens that the rules of a batch edit: their logits before and after, and what masks them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.layout import SlotState
from bosal_kernels.params import TokenFlag
from bosal_kernels.scope import NO_LIMIT

_LARGEST_GAIN = 1e30


@dataclass(frozen=True, slots=True)
class Edits:
    """The touched tokens of a batch, [B, W], padded; `valid` marks the real ones."""

    tokens: Tensor
    valid: Tensor
    raw: Tensor
    shaped: Tensor
    banned: Tensor
    # End-of-text tokens held back by min_tokens.
    early: Tensor
    # Tokens that would repeat an n-gram.
    repeats: Tensor
    # Tokens that the row's hard language rules out; nothing lifts these.
    illegal: Tensor

    def write(self, logits: Tensor, rows: Tensor, masked: Tensor) -> None:
        """Store the shaped values of some rows, -inf where masked; [k], [k, W]."""
        if self.tokens.shape[1] == 0:
            return
        values = self.shaped[rows].masked_fill_(masked | self.illegal[rows], -torch.inf)
        places = rows[:, None] * logits.shape[1] + self.tokens[rows]
        # Padding repeats what is stored first; a row without tokens keeps what it has, masks too.
        is_real = self.valid[rows]
        first = torch.where(is_real[:, :1], values[:, :1], logits.view(-1)[places[:, :1]])
        places = torch.where(is_real, places, places[:, :1])
        values = torch.where(is_real, values, first)
        logits.view(-1).index_copy_(0, places.view(-1), values.view(-1))


class Touched:
    """The touched tokens of a batch's slots, [B, W], and what their choices did with them."""

    def __init__(self, state: SlotState, slots: Tensor) -> None:
        self.state = state
        self.slots = slots
        num_touched = state.n_touch[slots]
        self.width = int(num_touched.max()) if len(slots) else 0
        self.valid = torch.arange(self.width, device=slots.device) < num_touched[:, None]
        self.tokens = state.t_tok[:, : self.width].index_select(0, slots).long()
        self.count = state.t_out_count[:, : self.width].index_select(0, slots)
        self.flags = state.t_flag[:, : self.width].index_select(0, slots)
        self.position = state.position[slots, None]

    def param(self, table: Tensor) -> Tensor:
        return table.index_select(0, self.slots)[:, None]

    def has(self, flag: TokenFlag) -> Tensor:
        return (self.flags & flag) != 0

    def index(self, row: Tensor, token: Tensor) -> Tensor:
        """Return the touched index of listed tokens [n] of rows [n]."""
        return self.state.t_pos[self.slots[row], token].long()

    def counts(self, default: Tensor, window: Tensor, instruction: Tensor, usual: int) -> Tensor:
        """Count each token within a penalty's window, [B, W]; `default` where it has none."""
        window, instruction = window[self.slots], instruction[self.slots]
        rows = ((window > 0) | (instruction != usual)).nonzero().squeeze(1)
        if len(rows) == 0:
            return default
        found = self.state.history.counts(
            self.slots[rows], window[rows], instruction[rows], self.state.t_pos, self.width
        )
        return default.index_copy(0, rows, found.to(default.dtype))


def edit(
    logits: Tensor, state: SlotState, slots: Tensor, legal: LegalTokens | None = None
) -> Edits:
    """Gather the touched tokens' logits; compute their shaped values and masks (see `control`)."""
    found = _look_back(state, slots) if state.history.is_used else None
    touched = Touched(state, slots)
    raw = logits.gather(1, touched.tokens)
    z = _penalised(raw, touched)
    z = z + state.t_delta[:, : touched.width].index_select(0, slots)
    if found is not None:
        z = _without_loops(z, touched, found)
    z = _nearer_to_the_end(z, touched)
    is_eos = touched.has(TokenFlag.EOS)
    early = is_eos & (touched.position < touched.param(state.min_tokens))
    return Edits(
        tokens=touched.tokens,
        valid=touched.valid,
        raw=raw,
        shaped=z,
        banned=_banned(touched) & touched.valid,
        early=early & touched.valid,
        repeats=_repeating(touched, found),
        illegal=(
            torch.zeros_like(touched.valid)
            if legal is None
            else legal.illegal(touched.tokens) & touched.valid
        ),
    )


def _penalised(z: Tensor, touched: Touched) -> Tensor:
    state = touched.state
    in_output = touched.count > 0
    repetition = touched.param(state.repetition)
    if bool((repetition != 1).any()):
        seen = in_output | touched.has(TokenFlag.IN_PROMPT)
        seen = touched.counts(seen.int(), state.repetition_window, state.repetition_instruction, 1)
        penalised = torch.where(z > 0, z / repetition, z * repetition)
        z = torch.where(seen > 0, penalised, z)
    presence, frequency = touched.param(state.presence), touched.param(state.frequency)
    present, count = touched.count, touched.count
    if state.history.is_used:
        present = touched.counts(present, state.presence_window, state.presence_instruction, 0)
        count = touched.counts(count, state.frequency_window, state.frequency_instruction, 0)
    z = z - presence * (present > 0) - frequency * count
    used = in_output | touched.has(TokenFlag.USED_AT_START)
    return z + touched.param(state.used_weight) * used


@dataclass(frozen=True, slots=True)
class _Found:
    """What looking back found: rows of the batch, tokens and run lengths, [n] each."""

    repeats: tuple[Tensor, Tensor]
    extensions: tuple[Tensor, Tensor, Tensor]


def _look_back(state: SlotState, slots: Tensor) -> _Found:
    """Find the tokens that would repeat something, and list those that nothing edits yet."""
    n = state.ngram[slots]
    allowed = torch.where(state.dry_multiplier[slots] > 0, state.dry_allowed[slots], 0)
    least = torch.where(n >= 2, n - 1, NO_LIMIT)
    least = torch.minimum(least, torch.where(allowed >= 1, allowed, NO_LIMIT))
    ends = state.history.earlier_ends(slots, torch.where(least < NO_LIMIT, least, 0))
    found = _Found(
        state.history.repeats(slots, n, *ends),
        state.history.extensions(slots, allowed, state.dry_window[slots], *ends),
    )
    row = torch.cat([found.repeats[0], found.extensions[0]])
    token = torch.cat([found.repeats[1], found.extensions[1]])
    is_new = state.t_pos[slots[row], token] < 0
    if bool(is_new.any()):
        keys = torch.unique(row[is_new] * state.vocab_size + token[is_new])
        state.touch(slots[keys // state.vocab_size], keys % state.vocab_size)
    return found


def _without_loops(z: Tensor, touched: Touched, found: _Found) -> Tensor:
    """Subtract the DRY penalty from what followed earlier occurrences of the history's end."""
    row, token, run = found.extensions
    if len(row) == 0:
        return z
    state, width = touched.state, touched.width
    longest = torch.zeros(z.shape, dtype=torch.int64, device=z.device)
    longest.view(-1).scatter_reduce_(0, row * width + touched.index(row, token), run, "amax")
    row, column = (longest > 0).nonzero(as_tuple=True)
    slot = touched.slots[row]
    excess = longest[row, column] - state.dry_allowed[slot]
    penalty = state.dry_multiplier[slot].double() * state.dry_base[slot] ** excess
    z = z.clone()
    z[row, column] -= penalty.clamp(max=_LARGEST_GAIN).float()
    return z


def _nearer_to_the_end(z: Tensor, touched: Touched) -> Tensor:
    state, position = touched.state, touched.position
    over = touched.param(state.eos_ramp_over)
    ramp = touched.param(state.eos_ramp_weight) * (torch.minimum(position, over) / over)
    ramp = ramp * (touched.param(state.at_sentence_end) | ~touched.param(state.eos_ramp_waits))
    is_eos = touched.has(TokenFlag.EOS)
    z = z + ramp * is_eos
    factor = touched.param(state.eos_decay_factor)
    if bool((factor != 1).any()):
        growth = factor ** (position - touched.param(state.eos_decay_start)).clamp(min=0) - 1
        # Bounded, so that a long output drives the logit to no infinity.
        gain = (z.abs() * growth.clamp(max=_LARGEST_GAIN).float()).clamp(max=_LARGEST_GAIN)
        z = torch.where(is_eos & z.isfinite(), z + gain, z)
    return z


def _banned(touched: Touched) -> Tensor:
    state, slots = touched.state, touched.slots
    banned = touched.has(TokenFlag.BANNED)
    num_bans = state.n_ban[slots]
    if bool((num_bans > 0).any()):
        here = state.ban_position[slots] == touched.position
        here &= torch.arange(here.shape[1], device=here.device) < num_bans[:, None]
        row, entry = here.nonzero(as_tuple=True)
        banned[row, state.ban_index[slots[row], entry].long()] = True
    return banned


def _repeating(touched: Touched, found: _Found | None) -> Tensor:
    repeating = torch.zeros_like(touched.valid)
    if found is not None:
        row, token = found.repeats
        repeating[row, touched.index(row, token)] = True
    return repeating
