"""The first stage of control: which scoped numbers are in force at this step."""

import torch
from torch import Tensor

from bosal_kernels.groups import GroupedRows, first_tokens, group_max
from bosal_kernels.interval import Intervals
from bosal_kernels.layout import SlotState
from bosal_kernels.scope import DELTA, Region
from bosal_kernels.streams import Combined


def resolve(
    logits: Tensor, state: SlotState, slots: Tensor, combined: Combined | None = None
) -> None:
    """Write the scoped numbers of `slots` [B] into the state, given the model's rows [B, V].

    Where `logits` are `combined`'s, the model's rows are those of the base streams.

    A number becomes its value where its scope holds and its parameter's neutral value elsewhere
    (see `scope.Scope`); weights that hold are added to the token's delta. Costs nothing where no
    slot has a scoped number, and reads the rows only for scopes that ask for their certainty.
    """
    if not state.scopes.is_used:
        return
    count = state.scopes.count[slots]
    rows = (count > 0).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    here, count = slots[rows], count[rows]
    param, column, value, after, until, region, top1_below, entropy_above = state.scopes.entries(
        here
    )
    position = state.position[here, None]
    is_inside = state.in_constraint[here, None]
    holds = (position >= after) & (position < until)
    holds &= (region == Region.ANY) | ((region == Region.INSIDE) == is_inside)
    if state.scopes.has_gates:
        if combined is not None and combined.is_coupled:
            top1, entropy = certainty(combined.streams, combined.base[rows])
        else:
            top1, entropy = certainty(logits, rows)
        holds &= (top1[:, None] < top1_below) | (top1_below == torch.inf)
        holds &= (entropy[:, None] > entropy_above) | (entropy_above == -torch.inf)
    is_entry = torch.arange(param.shape[1], device=logits.device) < count[:, None]
    holds &= is_entry
    present = torch.bincount(param[is_entry]).nonzero().squeeze(1)
    for code in present.tolist():
        row, entry = (is_entry & (param == code)).nonzero(as_tuple=True)
        slot, place = here[row], column[row, entry]
        is_on, number = holds[row, entry], value[row, entry]
        if state.scopes.names[code] == DELTA:
            state.t_delta[slot] = state.t_base[slot]
            index = state.t_pos[slot[is_on], place[is_on]].long()
            weight = number[is_on].to(state.t_delta.dtype)
            state.t_delta.index_put_((slot[is_on], index), weight, accumulate=True)
            continue
        table = state.table(state.scopes.names[code])
        # First all, then those in force: one place may have a value for each of several scopes.
        table[slot, place] = torch.tensor(
            state.scopes.neutral[code], dtype=table.dtype, device=table.device
        )
        table[slot[is_on], place[is_on]] = number[is_on].to(table.dtype)


def certainty(logits: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return max p and the entropy in nats of rows [R] of logits [B, V], float64 [R] each.

    p is the softmax of the row; a row that is no distribution has NaN.
    """
    chosen = logits[rows]
    maxima = group_max(chosen)
    grouped = GroupedRows(chosen, maxima)
    everyone = torch.arange(len(chosen), device=logits.device)
    row_max = maxima.amax(1)
    intervals = Intervals(grouped, everyone, row_max, first_tokens(grouped))
    one = torch.ones(len(chosen), dtype=torch.float32, device=logits.device)
    mass, moment = intervals.mass_and_moment(everyone, one)
    return 1 / mass, mass.log() - moment / mass
