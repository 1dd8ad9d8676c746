"""Chooses one token per row of controlled logits, and reports what the row thought of it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bosal_kernels.control import Control
from bosal_kernels.draw import drawn_tokens
from bosal_kernels.groups import GroupedRows
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
from bosal_kernels.truncate import truncate
from bosal_kernels.truncation import Truncation


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
    yielded: Tensor  # [B] int64: what gave way, bits YIELDED_*
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

    Where mirostat acts, with target tau and rate eta, the next position's limit on surprise becomes
    limit - eta * (surprise of the token - tau), should the token be committed; it stays where the
    mask leaves a single token, which was not drawn from anything.
    """
    is_dead = control.invalid | (control.row_max == -torch.inf)
    # What a greedy row wants; the others are about to draw.
    tokens = control.first.masked_fill(is_dead, -1)
    inverse = torch.ones_like(control.row_max)
    if len(sampled := _drawing(state, slots, is_dead)):
        here = slots[sampled]
        truncation = _truncate(control, state, slots, sampled)
        tokens[sampled] = drawn_tokens(truncation)
        inverse[sampled] = truncation.inverse
        if state.is_used("last_temperature"):
            state.last_temperature[here] = 1 / truncation.inverse.double()
        if state.mirostat.is_used:
            _learn(state, here, truncation, tokens[sampled])
            state.mirostat.forget(here[_is_settled(control, sampled)])
    if forced is not None:
        place = forced.clamp(min=0)[:, None]
        is_legal = control.logits.gather(1, place)[:, 0] > -torch.inf
        is_forced = (forced >= 0) & ~is_dead & is_legal
        tokens = torch.where(is_forced, forced, tokens)
        state.mirostat.forget(slots[is_forced])
    logprobs = None
    if control.raw is not None:
        logprobs = _logprobs(control, control.raw, tokens, inverse)
    return Selection(
        tokens=tokens, yielded=control.yielded, invalid=control.invalid, logprobs=logprobs
    )


def _drawing(state: SlotState, slots: Tensor, is_dead: Tensor) -> Tensor:
    """List the places of the rows that do not take their best token, or none, [R]."""
    if not state.is_used("is_drawing"):
        return slots[:0]
    is_idle = is_dead
    if state.is_used("is_greedy"):
        is_cold = (state.chain_stage[slots] == Stage.TEMPERATURE) & (state.chain_value[slots] <= 0)
        is_idle = is_dead | is_cold.any(1)
    return (is_idle == 0).nonzero().squeeze(1)


def _truncate(control: Control, state: SlotState, slots: Tensor, places: Tensor) -> Truncation:
    """Run the chains of the rows at `places` [R] of the batch, whose slots are `slots` [B]."""
    here = slots[places]
    position = state.position[here]
    truncation = Truncation(
        _grouped(control),
        places,
        row_max=control.row_max[places],
        first_token=control.first[places],
        key=state.key[here],
        position=position,
        exponent=state.dynamic_exponent[here],
        surprise=state.mirostat.at(here, position) if state.mirostat.is_used else None,
    )
    truncate(truncation, state.chain_stage[here], state.chain_value[here], state.chain_second[here])
    return truncation


def score(control: Control, state: SlotState, tokens: Tensor) -> Logprobs:
    """Return what the rows of `control` say of given tokens [B]; one that is masked has -inf.

    The slots ask for log-probabilities.
    """
    assert control.raw is not None
    inverse = (1 / temperature_of(state, control.slots)).clamp(max=3e38).float()
    is_dynamic = (state.chain_stage[control.slots] == Stage.DYNAMIC_TEMPERATURE).any(1)
    is_dynamic &= ~control.invalid & (control.row_max > -torch.inf)
    if bool(is_dynamic.any()):
        places = is_dynamic.nonzero().squeeze(1)
        inverse[places] = _truncate(control, state, control.slots, places).inverse
    found = _logprobs(control, control.raw, tokens, inverse)
    # Where nothing is legal neither is the token.
    return replace(
        found,
        controlled_logprob=found.controlled_logprob.nan_to_num(nan=-torch.inf, neginf=-torch.inf),
    )


def temperature_of(state: SlotState, slots: Tensor) -> Tensor:
    """Return the temperature of each slot's log-probabilities, float64 [B]; 0 reads as 1.

    A dynamic one is that of the last draw.
    """
    values, stages = state.chain_value[slots], state.chain_stage[slots]
    is_warm = (stages == Stage.TEMPERATURE) & (values > 0)
    is_dynamic = (stages == Stage.DYNAMIC_TEMPERATURE).any(1)
    fixed = torch.where(is_warm, values, 1.0).prod(1)
    return torch.where(is_dynamic, state.last_temperature[slots], fixed)


def _learn(state: SlotState, slots: Tensor, truncation: Truncation, tokens: Tensor) -> None:
    """Say what the limits on surprise become behind the drawn tokens; all are [R]."""
    row, place = (state.chain_stage[slots] == Stage.MIROSTAT).nonzero(as_tuple=True)
    if len(row) == 0:
        return
    assert truncation.surprise is not None
    target, rate = state.chain_value[slots[row], place], state.chain_second[slots[row], place]
    error = truncation.surprise_of(row, tokens[row]) - target
    state.mirostat.following[slots[row]] = truncation.surprise[row] - rate * error


def _is_settled(control: Control, places: Tensor) -> Tensor:
    """Say where rows at `places` [R] have a single token that is legal, [R] bool."""
    settled = (_grouped(control).maxima[places] > -torch.inf).sum(1) == 1
    rows = settled.nonzero().squeeze(1)
    if len(rows):
        settled[rows] = (control.logits[places[rows]] > -torch.inf).sum(1) == 1
    return settled


def _grouped(control: Control) -> GroupedRows:
    assert control.group_max is not None
    return GroupedRows(control.logits, control.group_max)


def _logprobs(control: Control, raw: RawRows, tokens: Tensor, inverse: Tensor) -> Logprobs:
    rows, grouped = raw.rows, _grouped(control)
    chosen = tokens[rows]
    has_token = chosen >= 0
    chosen = chosen.clamp(min=0)
    inverse = inverse[rows]
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
