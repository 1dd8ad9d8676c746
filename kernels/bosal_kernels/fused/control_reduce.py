"""Combines, shapes and masks rows and reduces them, in one pass over the streams.

Nothing as wide as a row is written. A choice's edited tokens are a short list: tiles of the row
leave them out by a packed bitmap, and further programs of the same launch compute them exactly.
What is left of a row are the maxima of its groups, the values of its edited tokens and a few sums;
`select` reads the groups that matter again.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bosal_kernels.fused.row_tiles import load_tile, sum_exp
from bosal_kernels.fused.rows import key_of
from bosal_kernels.fused.streams import (
    bits_at,
    is_in_force,
    scaled,
    stream_weight,
    strength_of,
)
from bosal_kernels.fusible import MAX_FUSED_STREAMS
from bosal_kernels.layout import SlotState
from bosal_kernels.params import TokenFlag
from bosal_kernels.streams import CombineState

# Tokens of a tile and of a piece of an edited list; their number depends on shapes alone.
BLOCK = 4096
LIST_BLOCK = 1024
NUM_WARPS = 8
# Numbers a tile leaves, in this order: max z, sum exp(scaled), sum exp(scaled) scaled, count,
# mean and sum of squared deviations of z - max z, max and sum exp of the base's row, faults.
NUM_STATS = 9
_EOS = tl.constexpr(int(TokenFlag.EOS))
_BANNED = tl.constexpr(int(TokenFlag.BANNED))
_IN_PROMPT = tl.constexpr(int(TokenFlag.IN_PROMPT))
_USED = tl.constexpr(int(TokenFlag.USED_AT_START))
_LARGEST = tl.constexpr(1e30)


@triton.jit
def inverse_temperature(slot, chain_stage, chain_value):
    """Return 1 / T of a slot's chain, float32; 1 where it is greedy or has none."""
    place = tl.arange(0, 16)
    is_stage = place < 12
    stage = tl.load(chain_stage + slot * 12 + place, mask=is_stage, other=0)
    value = tl.load(chain_value + slot * 12 + place, mask=is_stage, other=0.0)
    heat = tl.sum(tl.where((stage == 1) & (value > 0.0), value, 0.0), 0)
    heat = tl.where(heat > 0.0, heat, 1.0)
    return tl.minimum(1.0 / heat, 3e38).to(tl.float32)


@triton.jit
def store_stats(out, z, inverse, MOMENTS: tl.constexpr):
    """Write what `select` needs of controlled logits; -inf takes no part."""
    best = tl.max(z, 0)
    anchor = tl.where(best == float("-inf"), 0.0, best)
    shifted = z - anchor
    relative = shifted * inverse
    weight = tl.exp2(relative * 1.4426950408889634)
    tl.store(out, best)
    tl.store(out + 1, tl.sum(weight, 0))
    if MOMENTS:
        is_left = z > float("-inf")
        count = tl.sum(tl.where(is_left, 1, 0), 0).to(tl.float32)
        tl.store(out + 2, tl.sum(tl.where(is_left, weight * relative, 0.0), 0))
        tl.store(out + 3, count)
        mean = tl.sum(tl.where(is_left, shifted, 0.0), 0) / tl.maximum(count, 1.0)
        off = tl.where(is_left, shifted - mean, 0.0)
        tl.store(out + 4, mean)
        tl.store(out + 5, tl.sum(off * off, 0))


@triton.jit
def control_reduce_kernel(
    streams,
    base,
    depths,
    normalizers,
    slots,
    legal_rows,
    legal_bits,
    touched_bits,
    t_tok,
    t_out_count,
    t_delta,
    t_flag,
    runs,
    repeats,
    shaped,
    maxima,
    raw_maxima,
    stats,
    position,
    repetition,
    presence,
    frequency,
    used_weight,
    eos_ramp_weight,
    eos_ramp_over,
    eos_ramp_waits,
    at_sentence_end,
    eos_decay_start,
    eos_decay_factor,
    min_tokens,
    dry_multiplier,
    dry_base,
    dry_allowed,
    n_touch,
    n_ban,
    ban_index,
    ban_position,
    chain_stage,
    chain_value,
    weights,
    slopes,
    inverse,
    strength,
    final_strength,
    over,
    after,
    until,
    region,
    in_constraint,
    vocab_size,
    row_stride,
    bit_stride,
    legal_stride,
    touched_stride,
    ban_stride,
    num_groups,
    num_tiles,
    STREAMS: tl.constexpr,
    NORMED: tl.constexpr,
    LEGAL: tl.constexpr,
    HISTORY: tl.constexpr,
    RAW: tl.constexpr,
    MOMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
    LIST_BLOCK: tl.constexpr,
    NUM_STATS: tl.constexpr,
):
    number = tl.program_id(0)
    tile = tl.program_id(1)
    slot = tl.load(slots + number)
    if slot >= 0:
        out = stats + (number * tl.num_programs(1) + tile) * NUM_STATS
        here = tl.load(position + slot)
        heat = inverse_temperature(slot, chain_stage, chain_value)
        first = tl.load(base + number)
        row = streams + first * row_stride
        depth = tl.load(depths + number)
        w0, w1, w2, i0, i1, i2, n0, n1, n2 = 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0
        if STREAMS > 1:
            acts = is_in_force(slot, here, after, until, region, in_constraint)
            depth = tl.where(acts, depth, 1)
            pull = strength_of(slot, here, strength, final_strength, over)
            w0 = stream_weight(slot, 0, pull, weights, slopes)
            w1 = stream_weight(slot, 1, pull, weights, slopes)
            i0 = tl.load(inverse + slot * 4)
            i1 = tl.load(inverse + slot * 4 + 1)
            if NORMED:
                n0 = tl.load(normalizers + first)
                n1 = tl.load(normalizers + first + 1, mask=depth > 1, other=0.0)
            if STREAMS > 2:
                w2 = stream_weight(slot, 2, pull, weights, slopes)
                i2 = tl.load(inverse + slot * 4 + 2)
                if NORMED:
                    n2 = tl.load(normalizers + first + 2, mask=depth > 2, other=0.0)
        legal_row = tl.full((), -1, tl.int32)
        if LEGAL:
            legal_row = tl.load(legal_rows + number)
        legal = legal_bits + legal_row.to(tl.int64) * legal_stride
        touched = touched_bits + slot * bit_stride
        list_row = slot * touched_stride
        if tile < num_tiles:
            x = load_tile(row, tile, vocab_size, BLOCK)
            fault = tl.where(x < float("inf"), 0, 1)
            z = x
            if STREAMS > 1:
                if depth > 1:
                    other = load_tile(row + row_stride, tile, vocab_size, BLOCK)
                    fault += tl.where(other < float("inf"), 0, 1)
                    z = scaled(x, i0, n0, w0) + scaled(other, i1, n1, w1)
                    if STREAMS > 2:
                        if depth > 2:
                            third = load_tile(row + 2 * row_stride, tile, vocab_size, BLOCK)
                            fault += tl.where(third < float("inf"), 0, 1)
                            z = z + scaled(third, i2, n2, w2)
                    z = tl.where(x == float("-inf"), float("-inf"), z)
                    fault += tl.where(z < float("inf"), 0, 1)
            word = tile * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
            is_word = word * 32 < vocab_size
            taken = tl.load(touched + word, mask=is_word, other=0)
            kept = ~taken
            if LEGAL:
                if legal_row >= 0:
                    kept = kept & tl.load(legal + word, mask=is_word, other=0)
            is_kept = ((kept[:, None] >> tl.arange(0, 32)[None, :]) & 1).reshape([BLOCK]) != 0
            z = tl.where(is_kept & (z < float("inf")), z, float("-inf"))
            group = tile * (BLOCK // 64) + tl.arange(0, BLOCK // 64)
            place = number.to(tl.int64) * num_groups + group
            best = tl.max(tl.reshape(z, [BLOCK // 64, 64]), 1)
            tl.store(maxima + place, key_of(best), mask=group < num_groups)
            if RAW:
                x = tl.where(x < float("inf"), x, float("-inf"))
                most = tl.max(tl.reshape(x, [BLOCK // 64, 64]), 1)
                tl.store(raw_maxima + place, key_of(most), mask=group < num_groups)
                raw_best = tl.max(most, 0)
                tl.store(out + 6, raw_best)
                tl.store(out + 7, sum_exp(x, raw_best))
            store_stats(out, z, heat, MOMENTS)
            tl.store(out + 8, tl.sum(fault, 0).to(tl.float32))
        else:
            index = (tile - num_tiles) * LIST_BLOCK + tl.arange(0, LIST_BLOCK)
            is_one = index < tl.load(n_touch + slot)
            token = tl.load(t_tok + list_row + index, mask=is_one, other=0)
            count = tl.load(t_out_count + list_row + index, mask=is_one, other=0)
            delta = tl.load(t_delta + list_row + index, mask=is_one, other=0.0)
            flag = tl.load(t_flag + list_row + index, mask=is_one, other=0)
            v = tl.load(row + token, mask=is_one, other=0.0).to(tl.float32)
            mixed = v
            if STREAMS > 1:
                if depth > 1:
                    a = tl.load(row + row_stride + token, mask=is_one, other=0.0).to(tl.float32)
                    mixed = scaled(v, i0, n0, w0) + scaled(a, i1, n1, w1)
                    if STREAMS > 2:
                        if depth > 2:
                            far = row + 2 * row_stride + token
                            b = tl.load(far, mask=is_one, other=0.0).to(tl.float32)
                            mixed = mixed + scaled(b, i2, n2, w2)
                    mixed = tl.where(v == float("-inf"), float("-inf"), mixed)
            y = mixed
            said = count > 0
            penalty = tl.load(repetition + slot)
            seen = said | ((flag & _IN_PROMPT) != 0)
            y = tl.where(seen, tl.where(y > 0.0, tl.div_rn(y, penalty), y * penalty), y)
            y = y - tl.where(said, tl.load(presence + slot), 0.0)
            y = y - tl.load(frequency + slot) * count.to(tl.float32)
            used = said | ((flag & _USED) != 0)
            y = y + tl.where(used, tl.load(used_weight + slot), 0.0)
            y = y + delta
            NEVER: tl.constexpr = 2**62
            masked = (flag & _BANNED) != 0
            if HISTORY:
                seen_row = number.to(tl.int64) * touched_stride
                run = tl.load(runs + seen_row + index, mask=is_one, other=0)
                base_ = tl.load(dry_base + slot)
                excess = (run.to(tl.int64) - tl.load(dry_allowed + slot)).to(tl.float64)
                grown = tl.exp(tl.log(base_) * excess)
                loss = tl.load(dry_multiplier + slot).to(tl.float64) * grown
                loss = tl.minimum(loss, _LARGEST).to(tl.float32)
                y = tl.where(run > 0, y - loss, y)
                masked = masked | (tl.load(repeats + seen_row + index, mask=is_one, other=0) != 0)
            is_eos = (flag & _EOS) != 0
            span = tl.load(eos_ramp_over + slot)
            share = tl.div_rn(tl.minimum(here, span).to(tl.float32), span.to(tl.float32))
            waits = tl.load(eos_ramp_waits + slot) != 0
            is_time = (tl.load(at_sentence_end + slot) != 0) | (waits == 0)
            ramp = tl.where(is_time, tl.load(eos_ramp_weight + slot) * share, 0.0)
            y = y + tl.where(is_eos, ramp, 0.0)
            factor = tl.load(eos_decay_factor + slot)
            later = tl.maximum(here - tl.load(eos_decay_start + slot), 0).to(tl.float64)
            growth = tl.minimum(tl.exp(tl.log(factor) * later) - 1.0, _LARGEST).to(tl.float32)
            gain = tl.minimum(tl.abs(y) * growth, _LARGEST)
            grows = is_eos & (tl.abs(y) < float("inf"))
            y = tl.where(grows, y + gain, y)
            # Blocks of truth values meet blocks only: the interpreter cannot widen single ones.
            masked = masked | (tl.where(is_eos, here, NEVER) < tl.load(min_tokens + slot))
            for entry in range(tl.load(n_ban + slot)):
                place_ = slot * ban_stride + entry
                is_here = tl.load(ban_position + place_) == here
                masked = masked | (index == tl.where(is_here, tl.load(ban_index + place_), -1))
            if LEGAL:
                if legal_row >= 0:
                    masked = masked | (bits_at(legal, token, is_one) == 0)
            wrong = tl.where(v < float("inf"), 0, 1) + tl.where(mixed < float("inf"), 0, 1)
            wrong += tl.where(masked | (y < float("inf")), 0, 1)
            wrong = tl.where(is_one, wrong, 0)
            y = tl.where(is_one & (masked == 0) & (y < float("inf")), y, float("-inf"))
            tl.store(shaped + number.to(tl.int64) * touched_stride + index, y, mask=is_one)
            store_stats(out, y, heat, MOMENTS)
            if RAW:
                tl.store(out + 6, float("-inf"))
                tl.store(out + 7, 0.0)
            tl.store(out + 8, tl.sum(wrong, 0).to(tl.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Rows as one pass leaves them, with all that `select` needs to read them again."""

    streams: Tensor  # [R, V'] the streams' rows as they came, any float type
    base: Tensor  # [B] int64, the base's place among them
    depths: Tensor  # [B] int32, how many streams a group has
    max_depth: int
    normalizers: Tensor | None  # [R] float32, what each stream's row is normalised by
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
    normalizers: Tensor | None = None,
    legal_rows: Tensor | None = None,
    legal_bits: Tensor | None = None,
    runs: Tensor | None = None,
    repeats: Tensor | None = None,
    keeps_raw: bool = False,
    has_moments: bool = False,
) -> Reduced:
    """Combine, shape and mask rows by the formulas of `control.control`, and reduce them.

        x_i   stream i's row, i < depths[b]: row base[b] + i of `streams` [R, V']
        z     sum_i w_i (x_i inverse_i - normalizers_i) where a group has more than one and its
              scope holds, else x_0; then shaped and masked
        per tile t: m = max z, sum e, sum e s with s = (z - m) / T and e = exp(s), count, mean and
              squared deviations of z, max x_0 and sum exp(x_0 - max), the number of NaN and +inf
        per group of 64 tokens: max z without edited tokens, max x_0

    `slots`, `base` and `depths` are [B] on the device; `max_depth`, the longest of `depths`, is
    the host's. Row b holds to the packed mask `legal_bits[legal_rows[b]]`, -1 to none. `runs` and
    `repeats` [B, W] come from `history_scan`. `keeps_raw` and `has_moments` say which sums the
    batch needs. Reads each stream once; the state packs its touched tokens.
    """
    if not 1 <= max_depth <= MAX_FUSED_STREAMS:
        raise ValueError(f"1 to {MAX_FUSED_STREAMS} streams are combined here: {max_depth}")
    assert state.touched_bits is not None, "a state for kernels packs its touched tokens"
    batch = len(slots)
    size = streams.shape[1] if num_tokens is None else num_tokens
    num_groups, num_tiles = triton.cdiv(size, 64), triton.cdiv(size, BLOCK)
    width = state.touched_capacity
    num_lists = triton.cdiv(width, LIST_BLOCK)

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=streams.device)

    found = Reduced(
        streams=streams,
        base=base,
        depths=depths,
        max_depth=max_depth,
        normalizers=normalizers,
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
        normalizers=nothing if normalizers is None else normalizers,
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
        in_constraint=state.in_constraint,
        vocab_size=size,
        row_stride=streams.stride(0),
        bit_stride=state.touched_bits.stride(0),
        legal_stride=0 if legal_bits is None else legal_bits.stride(0),
        touched_stride=width,
        ban_stride=state.ban_index.stride(0),
        num_groups=num_groups,
        num_tiles=num_tiles,
        STREAMS=max_depth,
        NORMED=normalizers is not None,
        LEGAL=legal_rows is not None,
        HISTORY=runs is not None,
        RAW=keeps_raw,
        MOMENTS=has_moments,
        BLOCK=BLOCK,
        LIST_BLOCK=LIST_BLOCK,
        NUM_STATS=NUM_STATS,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )
    return found
