"""Truncates, draws and reports, one program a row, reading only the groups that matter.

The algorithm and its order are those of `bosal_kernels.select`, whose token this is.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from bosal_kernels.fused.control_reduce import LIST_BLOCK, Reduced
from bosal_kernels.fused.lanes import BLOCK
from bosal_kernels.fused.members import ASIDE
from bosal_kernels.fused.select_kernel import select_kernel
from bosal_kernels.fused.tile_stats import NUM_STATS
from bosal_kernels.layout import SlotState
from bosal_kernels.logprobs import TopTokens
from bosal_kernels.streams import CombineState

NUM_WARPS = 8
# `Selected.status`: a row with any has no token and is for the torch path (`fusible` says which
# chains are not executed here).
INVALID = 1
EMPTY = 2
UNFUSED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedLogprobs:
    """What rows think of their tokens; NaN, 0 and -1 where the slot asks for nothing."""

    raw_logprobs: Tensor  # [B] float32
    logprobs: Tensor  # [B] float32
    raw_ranks: Tensor  # [B] int64
    ranks: Tensor  # [B] int64
    raw_top: TopTokens  # [B, n]
    top: TopTokens  # [B, n]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """What the kernel chose."""

    tokens: Tensor  # [B] int64, -1 where `status` is not 0
    # [B] int32: INVALID, EMPTY or UNFUSED; such a row is for the torch path.
    status: Tensor
    logprobs: SelectedLogprobs | None


def select(
    reduced: Reduced,
    state: SlotState,
    coupling: CombineState,
    *,
    forced: Tensor | None = None,
    top_n: int = -1,
    is_plausible: bool = False,
    commits: bool = False,
) -> Selected:
    """Choose a token for every row of `reduced`, by the formulas of `bosal_kernels.select.select`.

        token = argmax over the kept set of fl(fl((z - max z) / T) + g), lowest id on ties

    `forced` [B] int64 on the device: tokens taken instead where legal, -1 for none. `top_n` is the
    most log-probabilities that any slot asks, -1 for none; `is_plausible` says whether any has a
    plausibility; with `commits` the token joins its slot's output: touched list, count, position.
    Needs `keeps_raw` of the reduction for either of the first two. Nothing is read back.
    """
    batch = len(reduced.slots)
    device = reduced.streams.device
    width = max(top_n, 0)

    def empty(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.empty((batch, *shape), dtype=dtype, device=device)

    found = Selected(
        tokens=empty(torch.int64),
        status=empty(torch.int32),
        logprobs=None
        if top_n < 0
        else SelectedLogprobs(
            raw_logprobs=empty(torch.float32),
            logprobs=empty(torch.float32),
            raw_ranks=empty(torch.int64),
            ranks=empty(torch.int64),
            raw_top=TopTokens(empty(torch.int64, width), empty(torch.float32, width)),
            top=TopTokens(empty(torch.int64, width), empty(torch.float32, width)),
        ),
    )
    if batch == 0:
        return found
    raw = reduced.raw_maxima
    assert raw is not None or not (is_plausible or top_n >= 0), "needs the raw maxima"
    assert state.touched_bits is not None
    nothing = reduced.maxima
    given = found.logprobs
    num_groups, num_stats = reduced.num_groups, reduced.stats.shape[1]
    num_tiles = triton.cdiv(reduced.num_tokens, BLOCK)
    select_kernel[(batch,)](
        streams=reduced.streams,
        base=reduced.base,
        depths=reduced.depths,
        masses=nothing if reduced.masses is None else reduced.masses,
        slots=reduced.slots,
        legal_rows=nothing if reduced.legal_rows is None else reduced.legal_rows,
        legal_bits=nothing if reduced.legal_bits is None else reduced.legal_bits,
        touched_bits=state.touched_bits,
        t_pos=state.t_pos,
        t_tok=state.t_tok,
        t_out_count=state.t_out_count,
        shaped=reduced.shaped,
        maxima=reduced.maxima,
        raw_maxima=nothing if raw is None else raw,
        stats=reduced.stats,
        listed=torch.empty_like(reduced.maxima),
        aside=torch.empty((batch, ASIDE.value), dtype=torch.int64, device=device),
        forced=found.tokens if forced is None else forced,
        tokens=found.tokens,
        status=found.status,
        raw_logprobs=nothing if given is None else given.raw_logprobs,
        logprobs=nothing if given is None else given.logprobs,
        raw_ranks=nothing if given is None else given.raw_ranks,
        ranks=nothing if given is None else given.ranks,
        raw_top_ids=nothing if given is None else given.raw_top.ids,
        raw_top_logprobs=nothing if given is None else given.raw_top.logprobs,
        top_ids=nothing if given is None else given.top.ids,
        top_logprobs=nothing if given is None else given.top.logprobs,
        key=state.key,
        position=state.position,
        n_touch=state.n_touch,
        wanted=state.logprobs,
        last_temperature=state.last_temperature,
        chain_stage=state.chain_stage,
        chain_value=state.chain_value,
        chain_second=state.chain_second,
        weights=coupling.weights,
        slopes=coupling.slopes,
        inverse=coupling.inverse,
        strength=coupling.strength,
        final_strength=coupling.final_strength,
        over=coupling.over,
        after=coupling.after,
        until=coupling.until,
        region=coupling.region,
        space=coupling.space,
        in_constraint=state.in_constraint,
        log_plausibility=coupling.log_plausibility,
        vocab_size=reduced.num_tokens,
        row_stride=reduced.streams.stride(0),
        bit_stride=state.touched_bits.stride(0),
        legal_stride=0 if reduced.legal_bits is None else reduced.legal_bits.stride(0),
        touched_stride=state.touched_capacity,
        index_stride=state.t_pos.stride(0),
        num_groups=num_groups,
        num_tiles=num_tiles,
        num_stats=num_stats,
        top_width=width,
        STREAMS=reduced.max_depth,
        NORMED=reduced.masses is not None,
        TILES=triton.next_power_of_2(num_tiles),
        LEGAL=reduced.legal_rows is not None,
        PLAUSIBLE=is_plausible,
        MOMENTS=reduced.has_moments,
        FORCED=forced is not None,
        LOGPROBS=top_n >= 0,
        COMMIT=commits,
        GROUPS=max(triton.next_power_of_2(num_groups), 2),
        # Not of how many edited tokens there is room for: that grows while a server serves.
        STATS=triton.next_power_of_2(num_tiles + triton.cdiv(reduced.num_tokens, LIST_BLOCK)),
        NUM_STATS=NUM_STATS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return found
