"""Chooses one token per row of controlled logits, and reports what the row thought of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bosal_kernels.control import Control
from bosal_kernels.draw import Draw
from bosal_kernels.groups import GROUP, GroupedRows
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import (
    RawRows,
    TopTokens,
    best_tokens,
    count_above,
    log_normalizer,
    top_tokens,
)
from bosal_kernels.params import Stage
from bosal_kernels.truncate import Truncation


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Log-probabilities of the rows that ask for them, before and after control.

    Raw is the log-softmax of the logits as given; controlled follows mask and temperature and
    precedes truncation (temperature 0 reads as 1). A rank is 1 + the number of greater logits.
    A row without a token has NaN and rank 0.
    """

    rows: Tensor  # [R] int64, places in the batch, ascending
    raw_logprob: Tensor  # [R] float32
    controlled_logprob: Tensor  # [R] float32
    raw_rank: Tensor  # [R] int64
    controlled_rank: Tensor  # [R] int64
    top_raw: TopTokens  # [R, n]
    top_controlled: TopTokens  # [R, n]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen tokens of a batch."""

    tokens: Tensor  # [B] int64; -1 where nothing is left or the row is invalid
    yielded: Tensor  # [B] int64: rules that gave way, bits YIELDED_MIN_TOKENS and YIELDED_BANS
    invalid: Tensor  # [B] bool
    logprobs: Logprobs | None


def select(
    control: Control, state: SlotState, slots: Tensor, forced: Tensor | None = None
) -> Selection:
    """Choose a token for every row of `control`, whose slots are `slots` [B].

    token = argmax over the kept set of (z - max z) / T + g, lowest id on ties, where the chain of
    the slot decides the kept set and the noise g is a function of (key, position, token) alone;
    T = 0 is the argmax of z. Rows never influence each other: a row's token and log-probabilities
    are the same bits in any batch. A token of `forced` [B], -1 for none, is taken where legal.
    """
    stages = state.chain_stage[slots]
    is_temperature = stages == Stage.TEMPERATURE
    values = state.chain_value[slots]
    is_live = ~control.invalid & (control.row_max > -torch.inf)
    is_greedy = (is_temperature & (values <= 0)).any(1)
    tokens = torch.full_like(slots, -1)
    greedy = (is_live & is_greedy).nonzero().squeeze(1)
    if len(greedy):
        tokens[greedy] = _best(control, greedy)
    sampled = (is_live & ~is_greedy).nonzero().squeeze(1)
    logprobs = None
    if len(sampled) or control.raw is not None:
        scratch = state.scratch(len(slots))
        rows = GroupedRows(control.logits, control.group_max, scratch)
        if len(sampled):
            truncation = Truncation(
                rows,
                control.row_max[sampled],
                sampled,
                control.logits.shape[1],
                state.key[slots[sampled]],
                state.position[slots[sampled]],
            )
            truncation.run(stages[sampled], values[sampled], state.chain_second[slots[sampled]])
            tokens[sampled] = Draw(truncation).tokens()
    if forced is not None:
        place = forced.clamp(min=0)[:, None]
        is_legal = control.logits.gather(1, place)[:, 0] > -torch.inf
        tokens = torch.where((forced >= 0) & is_live & is_legal, forced, tokens)
    if control.raw is not None:
        temperature = temperature_of(state, slots)
        logprobs = _logprobs(control, control.raw, rows, tokens, temperature)
    return Selection(
        tokens=tokens, yielded=control.yielded, invalid=control.invalid, logprobs=logprobs
    )


def score(control: Control, state: SlotState, tokens: Tensor) -> Logprobs:
    """Return what the rows of `control` say of given tokens [B]; one that is masked has -inf.

    The slots ask for log-probabilities.
    """
    assert control.raw is not None
    rows = GroupedRows(control.logits, control.group_max, state.scratch(len(tokens)))
    temperature = temperature_of(state, control.slots)
    found = _logprobs(control, control.raw, rows, tokens, temperature)
    # Where nothing is legal neither is the token.
    return replace(
        found,
        controlled_logprob=found.controlled_logprob.nan_to_num(nan=-torch.inf, neginf=-torch.inf),
    )


def temperature_of(state: SlotState, slots: Tensor) -> Tensor:
    """Return the temperature of each slot's log-probabilities, float64 [B]; 0 reads as 1."""
    values = state.chain_value[slots]
    is_warm = (state.chain_stage[slots] == Stage.TEMPERATURE) & (values > 0)
    return torch.where(is_warm, values, 1.0).prod(1)


def _best(control: Control, rows: Tensor) -> Tensor:
    """Return the lowest id among the largest logits of rows [k]."""
    row_max = control.row_max[rows, None]
    group = (control.group_max[rows] == row_max).int().argmax(1)
    width = min(GROUP, control.logits.shape[1])
    # The last window may begin before its group: what precedes the group is less than the maximum.
    start = (group * GROUP).clamp(max=control.logits.shape[1] - width)
    window = start[:, None] + torch.arange(width, device=rows.device)
    return start + (control.logits[rows[:, None], window] == row_max).int().argmax(1)


def _logprobs(
    control: Control, raw: RawRows, grouped: GroupedRows, tokens: Tensor, temperature: Tensor
) -> Logprobs:
    rows = raw.rows
    chosen = tokens[rows]
    has_token = chosen >= 0
    chosen = chosen.clamp(min=0)
    inverse = (1.0 / temperature[rows]).clamp(max=3e38).float()
    normalizer = log_normalizer(grouped, rows, inverse, control.row_max[rows])
    value = grouped.at(rows, chosen)

    if raw.base is not None:
        raw_value = raw.base.gather(1, chosen[:, None]).squeeze(1)
        raw_rank = 1 + (raw.base > raw_value[:, None]).sum(1)
    else:
        # The raw logit: as saved where the token was edited, else as it stands.
        is_chosen = raw.valid & (raw.touched == chosen[:, None])
        saved = torch.where(is_chosen, raw.values, 0.0).sum(1)
        raw_value = torch.where(is_chosen.any(1), saved, value)
        edited = grouped.at(rows[:, None], raw.touched)
        raw_rank = 1 + count_above(grouped, rows, raw_value)
        raw_rank += (raw.valid & (raw.values > raw_value[:, None])).sum(1)
        raw_rank -= (raw.valid & (edited > raw_value[:, None])).sum(1)
    rank = 1 + count_above(grouped, rows, value)

    def known(logprob: Tensor) -> Tensor:
        return logprob.float().masked_fill(~has_token, torch.nan)

    best = best_tokens(grouped, rows, raw.wanted)
    return Logprobs(
        rows=rows,
        raw_logprob=known(raw_value.double() - raw.log_normalizer),
        controlled_logprob=known(value.double() * inverse.double() - normalizer),
        raw_rank=raw_rank * has_token,
        controlled_rank=rank * has_token,
        top_raw=raw.top,
        top_controlled=top_tokens(best, normalizer, inverse, int(raw.wanted.max())),
    )
