"""The kernel behind `control_reduce`: tiles of rows, and lists of their edited tokens."""

import triton
import triton.language as tl

from bosal_kernels.edits import LARGEST_GAIN
from bosal_kernels.fused.numbers import NO_LIMIT
from bosal_kernels.fused.row_tiles import load_tile, sum_exp
from bosal_kernels.fused.rows import GROUP, key_of
from bosal_kernels.fused.streams import bits_at, scaled, stream_terms
from bosal_kernels.fused.tile_stats import inverse_temperature, store_stats
from bosal_kernels.params import TokenFlag

_EOS = tl.constexpr(int(TokenFlag.EOS))
_BANNED = tl.constexpr(int(TokenFlag.BANNED))
_IN_PROMPT = tl.constexpr(int(TokenFlag.IN_PROMPT))
_USED = tl.constexpr(int(TokenFlag.USED_AT_START))
_LARGEST = tl.constexpr(LARGEST_GAIN)


# Of numbers that change as it serves Triton would compile one kernel for each divisibility.
@triton.jit(
    do_not_specialize=[
        "vocab_size",
        "touched_stride",
        "ban_stride",
        "num_groups",
        "num_tiles",
    ]
)
def control_reduce_kernel(
    streams,
    base,
    depths,
    masses,
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
    space,
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
    TILES: tl.constexpr,
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
        coupling = (
            weights, slopes, inverse, strength, final_strength, over, after, until, region, space,
        )  # fmt: skip
        terms = stream_terms(
            slot, number, here, depths, masses, coupling, in_constraint, num_tiles,
            STREAMS, NORMED, TILES,
        )  # fmt: skip
        depth, w0, w1, w2, i0, i1, i2, n0, n1, n2 = terms
        legal_row = tl.full((), -1, tl.int32)
        if LEGAL:
            legal_row = tl.load(legal_rows + number)
        legal = legal_bits + legal_row.to(tl.int64) * legal_stride
        touched = touched_bits + slot * bit_stride
        list_row = slot * touched_stride
        if tile < num_tiles:
            x = load_tile(row, tile, vocab_size, BLOCK)
            z = x
            faults = tl.full((), 0, tl.int32)
            if STREAMS > 1:
                if depth > 1:
                    other = load_tile(row + row_stride, tile, vocab_size, BLOCK)
                    fault = tl.where((x < float("inf")) & (other < float("inf")), 0, 1)
                    z = scaled(x, i0, n0, w0) + scaled(other, i1, n1, w1)
                    if STREAMS > 2:
                        if depth > 2:
                            third = load_tile(row + 2 * row_stride, tile, vocab_size, BLOCK)
                            fault += tl.where(third < float("inf"), 0, 1)
                            z = z + scaled(third, i2, n2, w2)
                    z = tl.where(x == float("-inf"), float("-inf"), z)
                    fault += tl.where(z < float("inf"), 0, 1)
                    faults = tl.sum(fault, 0)
            word = tile * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
            is_word = word * 32 < vocab_size
            taken = tl.load(touched + word, mask=is_word, other=0)
            kept = ~taken
            if LEGAL:
                if legal_row >= 0:
                    kept = kept & tl.load(legal + word, mask=is_word, other=0)
            is_kept = ((kept[:, None] >> tl.arange(0, 32)[None, :]) & 1).reshape([BLOCK]) != 0
            # By a sum, which lets no NaN and no +inf disappear.
            z = z + tl.where(is_kept, 0.0, float("-inf"))
            group = tile * (BLOCK // GROUP) + tl.arange(0, BLOCK // GROUP)
            place = number.to(tl.int64) * num_groups + group
            best = tl.max(tl.reshape(z, [BLOCK // GROUP, GROUP]), 1)
            tl.store(maxima + place, key_of(best), mask=group < num_groups)
            if RAW:
                most = tl.max(tl.reshape(x, [BLOCK // GROUP, GROUP]), 1)
                tl.store(raw_maxima + place, key_of(most), mask=group < num_groups)
                raw_best = tl.max(most, 0)
                tl.store(out + 6, raw_best)
                tl.store(out + 7, sum_exp(x, raw_best))
            faults += store_stats(out, z, heat, MOMENTS)
            tl.store(out + 8, faults.to(tl.float32))
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
            masked = masked | (tl.where(is_eos, here, NO_LIMIT) < tl.load(min_tokens + slot))
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
            _fault = store_stats(out, y, heat, MOMENTS)
            if RAW:
                tl.store(out + 6, float("-inf"))
                tl.store(out + 7, 0.0)
            tl.store(out + 8, tl.sum(wrong, 0).to(tl.float32))
