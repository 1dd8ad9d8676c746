"""Shapes and masks a batch of logits in place, touching only the edited tokens of each row."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bosal_kernels.bitmask import LegalTokens
from bosal_kernels.edits import edit
from bosal_kernels.groups import GroupedRows, first_best, first_tokens, group_max
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import RawRows, raw_rows
from bosal_kernels.resolve import resolve
from bosal_kernels.streams import Combined

# Bits of `Control.yielded`.
YIELDED_MIN_TOKENS = 1
YIELDED_BANS = 2
YIELDED_REPEATS = 4
# Set by whoever combined the row: it was combined again without its plausibility mask.
YIELDED_PLAUSIBILITY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Controlled logits and what selection needs to know about them."""

    logits: Tensor  # [B, V] float32, after shape and mask
    slots: Tensor  # [B] int64
    # [B, ceil(V / 64)]; None where no slot draws or reports anything.
    group_max: Tensor | None
    row_max: Tensor  # [B]; -inf where nothing is left
    first: Tensor  # [B] the lowest id that has the row's maximum; any id where that is NaN
    invalid: Tensor  # [B] bool: NaN or +inf came from the model
    yielded: Tensor  # [B] int64, YIELDED_* bits
    raw: RawRows | None  # the rows that ask for log-probabilities, before any edit


def control(
    logits: Tensor,
    state: SlotState,
    slots: Tensor,
    legal: LegalTokens | None = None,
    combined: Combined | None = None,
) -> Control:
    """Shape and mask `logits` [B, V] (float32, contiguous, changed in place) by their slots' rules.

    For a token with output count c, in a choice with L output tokens:

        z = x / repetition if x > 0 else x * repetition          if c > 0 or in the instruction
        z = z - presence (c > 0) - frequency c + used_weight (c > 0 or used at start) + delta
        z = z - dry_multiplier dry_base ** (n - dry_allowed)                 if n >= dry_allowed
        z = z + eos_ramp_weight min(L, over) / over                          if it ends the text
        z = z + |z| (eos_decay_factor ** max(L - start, 0) - 1)              if it ends the text
        z = -inf            if banned, banned at L, or it ends the text and L < min_tokens
        z = -inf            if the last ngram - 1 tokens and it occur in the history
        z = -inf            if `legal` has the row, but not the token, or a set of allowed tokens
                            in force lacks it

    n is the longest end of the history, without a breaker and within dry_window, that the token has
    followed before; the history is instruction and output. A penalty's counts are those of its last
    `window` tokens, with the instruction or without, where these are not as written above. The ramp
    with eos_ramp_waits acts only where the output ends a sentence.
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
    legal = state.allowed.within(legal, slots)
    if not state.is_editing and not state.is_used("logprobs"):
        return _unedited(logits, state, slots, legal)
    edits = edit(logits, state, slots, legal)
    raw = None
    asking = slots[:0]
    if state.is_used("logprobs"):
        asking = (state.logprobs[slots] >= 0).nonzero().squeeze(1)
    if len(asking):
        raw = raw_rows(
            logits,
            asking,
            wanted=state.logprobs[slots[asking]],
            touched=edits.tokens[asking],
            values=edits.raw[asking],
            valid=edits.valid[asking],
            combined=combined,
            is_masked=legal is not None,
        )
    # A ban may hide a NaN from the group maxima.
    invalid = ~(edits.raw.amax(1) < torch.inf)
    if legal is not None:
        legal.forbid(logits)
    edits.write(logits, edits.banned | edits.repeats | edits.early)
    maxima, row_max, first = _maxima(logits, state)
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
        edits.write(logits, still_masked[rows], rows)
        groups, row_max[rows], first[rows] = _maxima(logits[rows], state)
        if maxima is not None and groups is not None:
            maxima[rows] = groups
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
        first=first,
        invalid=invalid,
        yielded=yielded,
        raw=raw,
    )


def _unedited(
    logits: Tensor, state: SlotState, slots: Tensor, legal: LegalTokens | None
) -> Control:
    """Mask rows that no rule edits and that report nothing: there is nothing to lift either."""
    if legal is not None:
        legal.forbid(logits)
    maxima, row_max, first = _maxima(logits, state)
    return Control(
        logits=logits,
        slots=slots,
        group_max=maxima,
        row_max=row_max,
        first=first,
        invalid=~(row_max < torch.inf),
        yielded=torch.zeros_like(first),
        raw=None,
    )


def _maxima(logits: Tensor, state: SlotState) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the maxima of groups, where they will be asked for, those of rows, and whose."""
    if not state.is_used("is_drawing", "logprobs"):
        first = first_best(logits)
        return None, logits.gather(1, first[:, None]).squeeze(1), first
    maxima = group_max(logits)
    return maxima, maxima.amax(1), first_tokens(GroupedRows(logits, maxima))
