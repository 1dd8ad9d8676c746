"""Shapes and masks a batch of logits in place, touching only the edited tokens of each row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.groups import group_max
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import RawRows, raw_rows
from bosal_kernels.params import TokenFlag
from bosal_kernels.resolve import resolve
from bosal_kernels.streams import Combined

# Bits of `Control.yielded`.
YIELDED_MIN_TOKENS = 1
YIELDED_BANS = 2
YIELDED_REPEATS = 4
# Set by whoever combined the row: it was combined again without its plausibility mask.
YIELDED_PLAUSIBILITY = 8
_LARGEST_GAIN = 1e30


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Controlled logits and what selection needs to know about them."""

    logits: Tensor  # [B, V] float32, after shape and mask
    slots: Tensor  # [B] int64
    group_max: Tensor  # [B, ceil(V / 64)]
    row_max: Tensor  # [B]; -inf where nothing is left
    invalid: Tensor  # [B] bool: NaN or +inf came from the model
    yielded: Tensor  # [B] int64, YIELDED_* bits
    raw: RawRows | None  # the rows that ask for log-probabilities, before any edit


@dataclass(frozen=True, slots=True)
class _Edits:
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
        valid = self.valid[rows]
        values = self.shaped[rows].masked_fill_(masked | self.illegal[rows], -torch.inf)
        places = rows[:, None] * logits.shape[1] + self.tokens[rows]
        logits.view(-1)[places[valid]] = values[valid]


def control(
    logits: Tensor,
    state: SlotState,
    slots: Tensor,
    repeats: tuple[Tensor, Tensor] | None = None,
    legal: LegalTokens | None = None,
    combined: Combined | None = None,
) -> Control:
    """Shape and mask `logits` [B, V] (float32, contiguous, changed in place) by their slots' rules.

    For a token with output count c, in a choice with L output tokens:

        z = x / repetition if x > 0 else x * repetition          if c > 0 or in the instruction
        z = z - presence (c > 0) - frequency c + used_weight (c > 0 or used at start) + delta
        z = z + eos_ramp_weight min(L, over) / over                          if it ends the text
        z = z + |z| (eos_decay_factor ** max(L - start, 0) - 1)              if it ends the text
        z = -inf            if banned, banned at L, or it ends the text and L < min_tokens
        z = -inf            if (row, token) is among `repeats`, two int64 [n], no pair twice
        z = -inf            if `legal` has the row, but not the token

    Raw log-probabilities are those of the base streams' rows where `logits` is `combined`'s.
    Parameters are those in force at this step (`resolve`). A row where that leaves nothing gets its
    min_tokens lifted, then its repeats, then its bans; what is not legal stays masked.
    """
    num_rows, vocab_size = logits.shape
    if logits.dtype != torch.float32 or not logits.is_contiguous():
        raise ValueError("logits must be contiguous float32")
    if vocab_size != state.vocab_size:
        raise ValueError(f"rows of {vocab_size} logits for a state of {state.vocab_size}")
    resolve(logits, state, slots, combined)
    edits = _edits(logits, state, slots, repeats, legal)
    asking = (state.logprobs[slots] >= 0).nonzero().squeeze(1)
    raw = None
    if len(asking):
        raw = raw_rows(
            logits,
            state.scratch(num_rows),
            asking,
            wanted=state.logprobs[slots[asking]],
            touched=edits.tokens[asking],
            values=edits.raw[asking],
            valid=edits.valid[asking],
            combined=combined,
        )
    # A ban may hide a NaN from the group maxima.
    invalid = (edits.valid & ~(edits.raw < torch.inf)).any(1)
    everyone = torch.arange(num_rows, device=logits.device)
    if legal is not None:
        legal.forbid(logits)
    edits.write(logits, everyone, edits.banned | edits.repeats | edits.early)
    maxima = group_max(logits)
    row_max = maxima.amax(1)
    invalid |= ~(row_max < torch.inf)
    yielded = torch.zeros(num_rows, dtype=torch.int64, device=logits.device)

    def lift(bit: int, lifted: Tensor, still_masked: Tensor) -> None:
        """Lift a mask [B, W] from the rows that it helped to leave empty."""
        rows = (
            ((row_max == -torch.inf) & ~invalid & (lifted & ~edits.illegal).any(1))
            .nonzero()
            .squeeze(1)
        )
        if len(rows) == 0:
            return
        edits.write(logits, rows, still_masked[rows])
        maxima[rows] = group_max(logits[rows])
        row_max[rows] = maxima[rows].amax(1)
        yielded[rows] |= bit

    if bool((row_max == -torch.inf).any()):
        lift(YIELDED_MIN_TOKENS, edits.early, edits.banned | edits.repeats)
        lift(YIELDED_REPEATS, edits.repeats, edits.banned)
        lift(YIELDED_BANS, edits.banned, torch.zeros_like(edits.banned))
    return Control(
        logits=logits,
        slots=slots,
        group_max=maxima,
        row_max=row_max,
        invalid=invalid,
        yielded=yielded,
        raw=raw,
    )


def _edits(
    logits: Tensor,
    state: SlotState,
    slots: Tensor,
    repeats: tuple[Tensor, Tensor] | None,
    legal: LegalTokens | None,
) -> _Edits:
    """Gather the touched tokens' logits and compute their shaped values and masks."""
    if repeats is not None:
        state.touch(slots[repeats[0]], repeats[1])
    num_touched = state.n_touch[slots]
    width = int(num_touched.max()) if len(slots) else 0
    valid = torch.arange(width, device=logits.device) < num_touched[:, None]
    tokens = state.t_tok[slots, :width].long()
    count = state.t_out_count[slots, :width]
    flags = state.t_flag[slots, :width]
    position = state.position[slots, None]

    def param(table: Tensor) -> Tensor:
        return table[slots, None]

    raw = logits.gather(1, tokens)
    in_output = count > 0
    z = raw
    repetition = param(state.repetition)
    if bool((repetition != 1).any()):
        seen = in_output | ((flags & TokenFlag.IN_PROMPT) != 0)
        penalised = torch.where(z > 0, z / repetition, z * repetition)
        z = torch.where(seen, penalised, z)
    z = z - param(state.presence) * in_output - param(state.frequency) * count
    used = in_output | ((flags & TokenFlag.USED_AT_START) != 0)
    z = z + param(state.used_weight) * used + state.t_delta[slots, :width]
    over = param(state.eos_ramp_over)
    ramp = param(state.eos_ramp_weight) * (torch.minimum(position, over) / over)
    is_eos = (flags & TokenFlag.EOS) != 0
    z = z + ramp * is_eos
    factor = param(state.eos_decay_factor)
    if bool((factor != 1).any()):
        growth = factor ** (position - param(state.eos_decay_start)).clamp(min=0) - 1
        # Bounded, so that a long output drives the logit to no infinity.
        gain = (z.abs() * growth.clamp(max=_LARGEST_GAIN).float()).clamp(max=_LARGEST_GAIN)
        z = torch.where(is_eos & z.isfinite(), z + gain, z)
    banned = (flags & TokenFlag.BANNED) != 0
    num_bans = state.n_ban[slots]
    if bool((num_bans > 0).any()):
        here = state.ban_position[slots] == position
        here &= torch.arange(here.shape[1], device=here.device) < num_bans[:, None]
        row, entry = here.nonzero(as_tuple=True)
        banned[row, state.ban_index[slots[row], entry].long()] = True
    repeating = torch.zeros_like(banned)
    if repeats is not None:
        row, token = repeats
        repeating[row, state.t_pos[slots[row], token].long()] = True
    early = is_eos & (position < param(state.min_tokens))
    return _Edits(
        tokens=tokens,
        valid=valid,
        raw=raw,
        shaped=z,
        banned=banned & valid,
        early=early & valid,
        repeats=repeating,
        illegal=torch.zeros_like(valid) if legal is None else legal.illegal(tokens) & valid,
    )
