"""Combines, shapes and masks rows and reduces them, in one pass over the streams.

Nothing as wide as a row is written. A choice's edited tokens are a short list: tiles of the row
leave them out by a packed bitmap, and further programs of the same launch compute them exactly.
What is left of a row are the maxima of its groups, the values of its edited tokens and a few sums;
`select` reads the groups that matter again.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from bosal_kernels.fused.control_reduce_kernel import control_reduce_kernel
from bosal_kernels.fused.lanes import BLOCK, LANES, NUM_WARPS
from bosal_kernels.fused.rows import GROUP
from bosal_kernels.fused.tile_stats import NUM_STATS
from bosal_kernels.fusible import MAX_FUSED_STREAMS
from bosal_kernels.layout import SlotState
from bosal_kernels.streams import CombineState

# Tokens of a piece of an edited list; their number depends on the lists' room alone.
LIST_BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Rows as one pass leaves them, with all that `select` needs to read them again."""

    streams: Tensor  # [R, V'] the streams' rows as they came, any float type
    base: Tensor  # [B] int64, the base's place among them
    depths: Tensor  # [B] int32, how many streams a group has
    max_depth: int
    masses: Tensor | None  # of `stream_masses`, where any group sums log-probabilities
    slots: Tensor  # [B] int64; -1 is no row
    legal_rows: Tensor | None  # [B] int32, rows of `legal_bits`, -1 for none
    legal_bits: Tensor | None  # [L, ceil(V / 32)] int32
    num_tokens: int  # of the vocabulary; what is wider in a row is padding
    shaped: Tensor  # [B, W] float32, controlled logits of edited tokens
    maxima: Tensor  # [B, NG] int32, `rows.key_of` the maxima of groups without edited tokens
    raw_maxima: Tensor | None  # [B, NG] int32, of the base's row
    stats: Tensor  # [B, NT + NX, NUM_STATS] float32
    has_moments: bool

    @property
    def num_groups(self) -> int:
        return self.maxima.shape[1]


def control_reduce(
    streams: Tensor,
    state: SlotState,
    coupling: CombineState,
    slots: Tensor,
    base: Tensor,
    depths: Tensor,
    *,
    max_depth: int = 1,
    num_tokens: int | None = None,
    masses: Tensor | None = None,
    legal_rows: Tensor | None = None,
    legal_bits: Tensor | None = None,
    runs: Tensor | None = None,
    repeats: Tensor | None = None,
    keeps_raw: bool = False,
    has_moments: bool = False,
) -> Reduced:
    """Combine, shape and mask rows by the formulas of `control.control`, and reduce them.

        x_i   stream i's row, i < depths[b]: row base[b] + i of `streams` [R, V']
        z     sum_i w_i (x_i inverse_i - n_i) where a group has more than one and its scope holds,
              else x_0; then shaped and masked; n_i is ln sum exp(x_i inverse_i) where the group
              sums log-probabilities, 0 elsewhere
        per tile t: m = max z, sum e, sum e s with s = (z - m) / T and e = exp(s), count, mean and
              squared deviations of z, max x_0 and sum exp(x_0 - max), the number of NaN and +inf
        per group of 64 tokens: max z without edited tokens, max x_0

    `slots`, `base` and `depths` are [B] on the device; `max_depth`, the longest of `depths`, is
    the host's. `masses` come from `stream_masses`, `runs` and `repeats` [B, W] from `history_scan`.
    Row b holds to the packed mask `legal_bits[legal_rows[b]]`, -1 to none. `keeps_raw` and
    `has_moments` say which sums the batch needs. Reads each stream once; the state packs its
    touched tokens.
    """
    if not 1 <= max_depth <= MAX_FUSED_STREAMS:
        raise ValueError(f"1 to {MAX_FUSED_STREAMS} streams are combined here: {max_depth}")
    assert state.touched_bits is not None, "a state for kernels packs its touched tokens"
    batch = len(slots)
    size = streams.shape[1] if num_tokens is None else num_tokens
    num_groups, num_tiles = triton.cdiv(size, GROUP.value), triton.cdiv(size, BLOCK)
    width = state.touched_capacity
    num_lists = triton.cdiv(width, LIST_BLOCK)

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=streams.device)

    found = Reduced(
        streams=streams,
        base=base,
        depths=depths,
        max_depth=max_depth,
        masses=masses,
        slots=slots,
        legal_rows=legal_rows,
        legal_bits=legal_bits,
        num_tokens=size,
        shaped=empty(batch, width, dtype=torch.float32),
        maxima=empty(batch, num_groups),
        raw_maxima=empty(batch, num_groups) if keeps_raw else None,
        stats=empty(batch, num_tiles + num_lists, NUM_STATS, dtype=torch.float32),
        has_moments=has_moments,
    )
    if batch == 0:
        return found
    # Stands for what a launch does not read.
    nothing = found.maxima
    control_reduce_kernel[(batch, num_tiles + num_lists)](
        streams=streams,
        base=base,
        depths=depths,
        masses=nothing if masses is None else masses,
        slots=slots,
        legal_rows=nothing if legal_rows is None else legal_rows,
        legal_bits=nothing if legal_bits is None else legal_bits,
        touched_bits=state.touched_bits,
        t_tok=state.t_tok,
        t_out_count=state.t_out_count,
        t_delta=state.t_delta,
        t_flag=state.t_flag,
        runs=nothing if runs is None else runs,
        repeats=nothing if repeats is None else repeats,
        shaped=found.shaped,
        maxima=found.maxima,
        raw_maxima=nothing if found.raw_maxima is None else found.raw_maxima,
        stats=found.stats,
        position=state.position,
        repetition=state.repetition,
        presence=state.presence,
        frequency=state.frequency,
        used_weight=state.used_weight,
        eos_ramp_weight=state.eos_ramp_weight,
        eos_ramp_over=state.eos_ramp_over,
        eos_ramp_waits=state.eos_ramp_waits,
        at_sentence_end=state.at_sentence_end,
        eos_decay_start=state.eos_decay_start,
        eos_decay_factor=state.eos_decay_factor,
        min_tokens=state.min_tokens,
        dry_multiplier=state.dry_multiplier,
        dry_base=state.dry_base,
        dry_allowed=state.dry_allowed,
        n_touch=state.n_touch,
        n_ban=state.n_ban,
        ban_index=state.ban_index,
        ban_position=state.ban_position,
        chain_stage=state.chain_stage,
        chain_value=state.chain_value,
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
        vocab_size=size,
        row_stride=streams.stride(0),
        bit_stride=state.touched_bits.stride(0),
        legal_stride=0 if legal_bits is None else legal_bits.stride(0),
        touched_stride=width,
        ban_stride=state.ban_index.stride(0),
        num_groups=num_groups,
        num_tiles=num_tiles,
        num_lists=num_lists,
        STREAMS=max_depth,
        NORMED=masses is not None,
        TILES=triton.next_power_of_2(num_tiles),
        LEGAL=legal_rows is not None,
        HISTORY=runs is not None,
        RAW=keeps_raw,
        MOMENTS=has_moments,
        BLOCK=BLOCK,
        LANES=LANES,
        LIST_BLOCK=LIST_BLOCK,
        NUM_STATS=NUM_STATS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return found
