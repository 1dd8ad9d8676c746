"""The tokens that the rules of a batch edit: their logits before and after, and what masks them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.layout import SlotState
from bosal_kernels.numbers import SCOPED
from bosal_kernels.params import TokenFlag

# No rule adds or takes more than this: the sum stays finite.
LARGEST_GAIN: Final = 1e30


@dataclass(frozen=True, slots=True)
class Edits:
    """The touched tokens of a batch, [B, W]; `valid` marks the real ones.

    Padding repeats its row's first token; a row without any has token 0, as it is.
    """

    tokens: Tensor
    valid: Tensor
    # In the flat batch.
    places: Tensor
    raw: Tensor
    shaped: Tensor
    banned: Tensor
    # End-of-text tokens held back by min_tokens.
    early: Tensor
    # Tokens that would repeat an n-gram.
    repeats: Tensor
    # Tokens that the row's hard language rules out; nothing lifts these.
    illegal: Tensor

    def write(self, logits: Tensor, masked: Tensor, rows: Tensor | None = None) -> None:
        """Store the shaped values of some rows, or all, -inf where masked; [k, W]."""
        some = slice(None) if rows is None else rows
        values = self.shaped[some].masked_fill(masked | self.illegal[some], -torch.inf)
        values = torch.where(self.valid[some], values, values[:, :1])
        logits.view(-1).index_copy_(0, self.places[some].view(-1), values.view(-1))


class Touched:
    """The touched tokens of a batch's slots, [B, W], and what their choices did with them."""

    def __init__(self, state: SlotState, slots: Tensor) -> None:
        self.state = state
        self.slots = slots
        num_touched = state.n_touch.take(slots)
        self.width = max(int(num_touched.max()), 1) if len(slots) else 1
        self.valid = torch.arange(self.width, device=slots.device) < num_touched[:, None]
        tokens = self.entries(state.t_tok)
        self.tokens = torch.where(self.valid, tokens, tokens[:, :1]).long()
        self.count = self.entries(state.t_out_count)
        self.flags = self.entries(state.t_flag)

    @cached_property
    def position(self) -> Tensor:
        return self.param(self.state.position)

    def entries(self, table: Tensor) -> Tensor:
        """Return what a touched list holds, [B, W]; neutral beyond its end."""
        return table[:, : self.width].index_select(0, self.slots)

    def param(self, table: Tensor) -> Tensor:
        return table.take(self.slots)[:, None]

    def has(self, flag: TokenFlag) -> Tensor:
        return (self.flags & flag) != 0

    def index(self, row: Tensor, token: Tensor) -> Tensor:
        """Return the touched index of listed tokens [n] of rows [n]."""
        return self.state.t_pos[self.slots[row], token].long()

    def counts(self, name: str, default: Tensor, usual: int) -> Tensor:
        """Count each token within a penalty's window, [B, W].

        `default` where it has none, or is off: then what was said need not be listed.
        """
        state = self.state
        if not state.history.is_used:
            return default
        penalty, window, instruction = (
            state.table(f"{name}{part}")[self.slots, 0] for part in ("", "_window", "_instruction")
        )
        is_on = penalty != SCOPED[name]
        rows = (is_on & ((window > 0) | (instruction != usual))).nonzero().squeeze(1)
        if len(rows) == 0:
            return default
        found = state.history.counts(
            self.slots[rows], window[rows], instruction[rows], state.t_pos, self.width
        )
        return default.index_copy(0, rows, found.to(default.dtype))


def edit(
    logits: Tensor, state: SlotState, slots: Tensor, legal: LegalTokens | None = None
) -> Edits:
    """Gather the touched tokens' logits; compute their shaped values and masks (see `control`)."""
    found = _look_back(state, slots) if state.history.is_used else None
    touched = Touched(state, slots)
    start = torch.arange(0, logits.numel(), logits.shape[1], device=logits.device)
    places = touched.tokens + start[:, None]
    raw = logits.take(places)
    z = _penalised(raw, touched) + touched.entries(state.t_delta)
    if found is not None:
        z = _without_loops(z, touched, found)
    nothing = torch.zeros_like(touched.valid)
    is_early = nothing
    if state.is_used("min_tokens", "eos_ramp_weight", "eos_decay_factor"):
        is_eos = touched.has(TokenFlag.EOS)
        z = _nearer_to_the_end(z, touched, is_eos)
        is_early = is_eos & (touched.position < touched.param(state.min_tokens))
    return Edits(
        tokens=touched.tokens,
        valid=touched.valid,
        places=places,
        raw=raw,
        shaped=z,
        banned=_banned(touched),
        early=is_early,
        repeats=nothing if found is None else _repeating(touched, found),
        illegal=nothing if legal is None else legal.illegal(touched.tokens),
    )


def _penalised(z: Tensor, touched: Touched) -> Tensor:
    state, count = touched.state, touched.count
    in_output = count > 0
    if state.is_used("repetition"):
        repetition = touched.param(state.repetition)
        seen = in_output | touched.has(TokenFlag.IN_PROMPT)
        seen = touched.counts("repetition", seen.int(), 1)
        penalised = torch.where(z > 0, z / repetition, z * repetition)
        z = torch.where(seen > 0, penalised, z)
    if state.is_used("presence"):
        present = touched.counts("presence", count, 0)
        z = z - touched.param(state.presence) * (present > 0)
    if state.is_used("frequency"):
        number = touched.counts("frequency", count, 0)
        z = z - touched.param(state.frequency) * number
    if state.is_used("used_weight"):
        used = in_output | touched.has(TokenFlag.USED_AT_START)
        z = z + touched.param(state.used_weight) * used
    return z


@dataclass(frozen=True, slots=True)
class _Found:
    """What looking back found: rows of the batch, tokens and run lengths, [n] each."""

    repeats: tuple[Tensor, Tensor]
    extensions: tuple[Tensor, Tensor, Tensor]


def _look_back(state: SlotState, slots: Tensor) -> _Found:
    """Find the tokens that would repeat something, and list those that nothing edits yet."""
    n, window = state.ngram.take(slots), state.dry_window.take(slots)
    allowed = state.dry_allowed.take(slots).masked_fill(state.dry_multiplier.take(slots) <= 0, 0)
    # Ends that neither rule asks for are not listed: with one rule off, the other decides.
    least = torch.where(n >= 2, n - 1, allowed)
    least = torch.where(allowed >= 1, torch.minimum(least, allowed), least)
    ends = state.history.earlier_ends(slots, least)
    found = _Found(state.history.repeats(n, ends), state.history.extensions(allowed, window, ends))
    is_new = state.t_pos[ends.slot, ends.token] < 0
    if bool(is_new.any()):
        keys = torch.unique(ends.slot[is_new] * state.vocab_size + ends.token[is_new])
        state.touch(keys // state.vocab_size, keys % state.vocab_size)
    return found


def _without_loops(z: Tensor, touched: Touched, found: _Found) -> Tensor:
    """Subtract the DRY penalty from what followed earlier occurrences of the history's end."""
    row, token, run = found.extensions
    if len(row) == 0:
        return z
    state, slot = touched.state, touched.slots.take(row)
    excess = run - state.dry_allowed.take(slot)
    penalty = state.dry_multiplier.take(slot).double() * state.dry_base.take(slot) ** excess
    # Of several runs the longest costs most: the base is at least 1.
    place = torch.add(touched.index(row, token), row, alpha=touched.width)
    costs = torch.zeros_like(z)
    penalty = penalty.clamp(max=LARGEST_GAIN).float()
    costs.view(-1).scatter_reduce_(0, place, penalty, "amax")
    return z - costs


def _nearer_to_the_end(z: Tensor, touched: Touched, is_eos: Tensor) -> Tensor:
    state, position = touched.state, touched.position
    if state.is_used("eos_ramp_weight"):
        over = touched.param(state.eos_ramp_over)
        ramp = touched.param(state.eos_ramp_weight) * (torch.minimum(position, over) / over)
        if state.is_used("eos_ramp_waits"):
            waits = touched.param(state.eos_ramp_waits)
            ramp = ramp * (touched.param(state.at_sentence_end) | ~waits)
        z = z + ramp * is_eos
    if state.is_used("eos_decay_factor"):
        factor = touched.param(state.eos_decay_factor)
        growth = factor ** (position - touched.param(state.eos_decay_start)).clamp(min=0) - 1
        # Bounded, so that a long output drives the logit to no infinity.
        gain = (z.abs() * growth.clamp(max=LARGEST_GAIN).float()).clamp(max=LARGEST_GAIN)
        z = torch.where(is_eos & z.isfinite(), z + gain, z)
    return z


def _banned(touched: Touched) -> Tensor:
    state, slots = touched.state, touched.slots
    banned = touched.has(TokenFlag.BANNED)
    if state.is_used("n_ban"):
        here = state.ban_position[slots] == touched.position
        here &= torch.arange(here.shape[1], device=here.device) < touched.param(state.n_ban)
        row, entry = here.nonzero(as_tuple=True)
        banned[row, state.ban_index[slots[row], entry].long()] = True
    return banned


def _repeating(touched: Touched, found: _Found) -> Tensor:
    repeating = torch.zeros_like(touched.valid)
    row, token = found.repeats
    repeating[row, touched.index(row, token)] = True
    return repeating
